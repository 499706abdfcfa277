"""Exact: the best placement of few experts, by branch and bound over all of them.

Tokens that chose the same experts are one with a weight, so few experts make few tokens. Experts are placed one after
another; loads and visits only grow, so the time of the experts placed so far bounds every way to go on from below.
Empty ranks of a node with equal slots are alike, and so are empty nodes: only the first of them is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import comb

import numpy as np
from numpy.typing import NDArray

from .counts import Counts
from .layout import Layout
from .prices import Prices, Traffic, layer_time_s
from .trace import Ints

_MOST = 20_000
"""Placements, symmetries left out, up to which all are searched through: under a second."""


def is_small(layout: Layout) -> bool:
    """Whether there are few enough placements to look at all of them."""
    if layout.replicas or layout.groups > 1 or layout.experts > 16:
        return False
    left, ways = layout.experts, 1
    for slots in layout.slots:
        ways *= comb(left, slots)
        left -= slots
    alike = 1
    for node in range(layout.nodes):
        members = [slots for slots, place in zip(layout.slots, layout.node_of_rank, strict=True) if place == node]
        alike *= _orders(members)
    return ways // alike <= _MOST


def _orders(slots: list[int]) -> int:
    """Ways to order equal ranks."""
    product = 1
    for each in set(slots):
        for factor in range(2, slots.count(each) + 1):
            product *= factor
    return product


@dataclass(slots=True)
class _Search:
    layout: Layout
    prices: Prices
    patterns: NDArray[np.bool_]  # [patterns, experts]
    weight: NDArray[np.float64]  # [patterns], adds up to 1
    order: Ints
    best_s: float
    best: Ints
    room: list[int] = field(default_factory=list)


def best_placement(counts: Counts, layout: Layout, prices: Prices, known: Ints) -> tuple[Ints, float]:
    """Ranks [experts] of least predicted time over all tokens together, and that time; `known` is where to start."""
    patterns, weight = _patterns(counts.choices, layout.experts)
    order = np.argsort(-counts.load, kind="stable")
    search = _Search(layout, prices, patterns, weight, order, np.inf, known, list(layout.slots))
    search.best_s = _time_s(search, known, np.arange(layout.experts))
    _descend(search, np.full(layout.experts, -1, np.intp), 0)
    return search.best, search.best_s


def _patterns(choices: Ints, experts: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    chosen = np.zeros((choices.shape[1], experts), np.bool_)
    chosen[np.arange(choices.shape[1]), choices] = True
    code, count = np.unique(chosen @ (1 << np.arange(experts)), return_counts=True)
    return (code[:, None] >> np.arange(experts) & 1).astype(np.bool_), count / choices.shape[1]


def _descend(search: _Search, ranks: Ints, depth: int) -> None:
    if depth == len(search.order):
        return
    expert = search.order[depth]
    for rank in _distinct_ranks(search):
        ranks[expert] = rank
        search.room[rank] -= 1
        seconds = _time_s(search, ranks, search.order[: depth + 1])
        if seconds < search.best_s * (1 - 1e-12):
            if depth + 1 == len(search.order):
                search.best, search.best_s = ranks.copy(), seconds
            _descend(search, ranks, depth + 1)
        search.room[rank] += 1
    ranks[expert] = -1


def _distinct_ranks(search: _Search) -> Iterator[int]:
    """Ranks with room, of those that nothing tells apart the first."""
    layout, seen = search.layout, set()
    first = np.cumsum((0, *layout.ranks_per_node))
    for rank, node in enumerate(layout.node_of_rank.tolist()):
        members = range(first[node], first[node + 1])
        empty = search.room[rank] == layout.slots[rank]
        empty_node = all(search.room[each] == layout.slots[each] for each in members)
        kind = tuple(layout.slots[each] for each in members) if empty_node else (node,)
        key = (empty_node, kind, layout.slots[rank]) if empty else (rank,)
        if search.room[rank] and key not in seen:
            seen.add(key)
            yield rank


def _time_s(search: _Search, ranks: Ints, placed: Ints) -> float:
    """Predicted seconds with the `placed` experts alone."""
    layout = search.layout
    chosen = search.patterns[:, placed].astype(np.float64)
    rows = chosen @ np.eye(layout.ranks)[ranks[placed]]
    per_node = np.add.reduceat(rows, np.cumsum((0, *layout.ranks_per_node[:-1])), axis=1)
    traffic = Traffic(search.weight @ rows, search.weight @ (rows > 0), search.weight @ (per_node > 0))
    return layer_time_s(traffic, layout, search.prices)
