"""Levels: exchanges that lower the load of the busiest rank: inside nodes, or where they cost least traffic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .trace import Floats, Ints

_EXCHANGES = 64


def levelled(
    load: Floats, windows: Floats, ranks: Ints, parents: Ints, cost: Floats | None = None, most: int = _EXCHANGES
) -> Ints:
    """Ranks [experts] after up to `most` exchanges of experts of equal `parents` [experts], each of which lowers the
    largest load of a rank, half of it over all tokens and half in windows (their mean). Of those the best is made, or
    with `cost` [experts, experts] the one that lowers it most less its cost."""
    ranks = ranks.copy()
    count = int(ranks.max()) + 1
    rows = np.concatenate([load[None], windows])
    weight = np.full(len(rows), 0.5 / len(windows))
    weight[0] = 0.5
    held = rows @ np.eye(count)[ranks]
    for _ in range(most):
        found = _best(rows, weight, held, ranks, parents, cost)
        if found is None:
            break
        first, second = found
        moved = rows[:, second] - rows[:, first]
        held[:, ranks[first]] += moved
        held[:, ranks[second]] -= moved
        ranks[first], ranks[second] = ranks[second], ranks[first]
    return ranks


def _best(
    rows: Floats, weight: Floats, held: Floats, ranks: Ints, parents: Ints, cost: Floats | None
) -> tuple[int, int] | None:
    """The exchange of an expert of the busiest rank that lowers the mean of the largest loads most."""
    busiest = int(held[0].argmax())
    inside = np.flatnonzero(ranks == busiest)
    outside = np.flatnonzero(np.isin(parents, parents[inside]) & (ranks != busiest))
    if not len(outside):
        return None
    order = np.argsort(held, axis=1)[:, -3:]
    difference = rows[:, None, outside] - rows[:, inside, None]  # [rows, inside, outside]
    here = held[:, busiest, None, None] + difference
    there = held[:, None, ranks[outside]] - difference
    others = _largest_other(held, order, busiest, ranks[outside])
    largest = np.maximum(np.maximum(here, there), others[:, None, :])
    value = np.tensordot(weight, largest, 1)
    lower = value < weight @ held.max(1) * (1 - 1e-6)
    lower &= parents[inside][:, None] == parents[outside][None, :]
    if not lower.any():
        return None
    value = np.where(lower, value if cost is None else value + cost[np.ix_(inside, outside)], np.inf)
    at = np.unravel_index(int(value.argmin()), value.shape)
    return int(inside[at[0]]), int(outside[at[1]])


def _largest_other(held: Floats, order: Ints, busiest: int, partners: Ints) -> NDArray[np.float64]:
    """[rows, partners]: the largest load of all ranks but the busiest and the partner."""
    other = np.full((len(held), len(partners)), -np.inf)
    for place in range(order.shape[1]):  # ascending: a later one that counts is larger
        rank = order[:, place, None]
        counts = (rank != busiest) & (rank != partners[None, :])
        other = np.where(counts, np.take_along_axis(held, rank, 1), other)
    return other
