"""Bound: seconds that no placement of a layer's experts can undercut, on the trace it is given.

Load: the busiest rank holds at least the mean, and of the j r + 1 most chosen experts some rank of r holds j + 1.

Traffic: a token whose experts lie on its nodes in counts c_1, c_2, ... has sum c (c - 1) / 2 pairs inside nodes, and
visits at least as many nodes as the lower convex hull over all such counts says for that number of pairs. The hull is
convex, so the mean of visits is at least the hull at the mean of pairs (Jensen), and the mean of pairs inside equal
parts is at most what the largest eigenvalues allow (Donath and Hoffman 1973; on the complement of the constant vector,
Falkner, Rendl and Wolkowicz 1994), for every diagonal added to the matrix: a few steps of a subgradient choose it.
A thorough proof looks at every token by itself instead of the mean: fractional_bound.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..cost.dispatch import hops_s
from . import group_bound
from .counts import Counts
from .fractional_bound import fractional_visits
from .layout import Layout, node_sizes
from .metrics import floor_s
from .prices import Prices
from .trace import Floats, Ints

Proof = Literal["quick", "thorough"]


def layer_bound_s(
    counts: Counts, layout: Layout, prices: Prices, pairs_inside: float | None = None, proof: Proof = "quick"
) -> float:
    """Seconds of one microbatch. `pairs_inside` nodes of a placement, a token, guides the subgradient; a thorough
    proof goes through all tokens once more (fractional_bound.py)."""
    busiest = busiest_load(counts.load, layout)
    if prices.dispatch == "copies":
        exchange = _copies_s(counts, layout, prices, busiest)
    else:
        exchange = _visits_s(counts, layout, prices, pairs_inside, proof)
    return floor_s(busiest, exchange, layout, prices)


def busiest_load(load: Floats, layout: Layout) -> float:
    """Rows a token that some rank holds at least; with replicas the mean alone. A group that fills whole ranks has
    those to itself."""
    if layout.replicas:
        return float(load.sum()) / layout.ranks
    size, least = layout.experts // layout.groups, min(layout.slots)
    if layout.groups > 1 and size >= least:
        return max(_busiest(each, size // least, least) for each in np.asarray(load).reshape(layout.groups, size))
    return _busiest(load, layout.ranks, least)


def _busiest(load: Floats, ranks: int, least: int) -> float:
    """Of so many ranks with at least `least` slots each."""
    ordered = np.sort(load)[::-1]
    rising = np.concatenate([[0.0], np.cumsum(ordered[::-1])])
    best = float(load.sum()) / ranks
    for many in range(1, min(least, (len(load) - 1) // ranks + 1) + 1):
        last = (many - 1) * ranks + 1
        heavy = ordered[last - many : last].sum()
        best = max(best, float(heavy + rising[least - many]))
    return best


def _copies_s(counts: Counts, layout: Layout, prices: Prices, busiest: float) -> float:
    """The busiest rank takes its rows in, of which the homes of its own node send their share over the inner links."""
    share = float(layout.share.max())
    outer = busiest * (1 - share) * prices.outer_s
    inner = busiest * max(0.0, float(layout.share.min()) - 1 / layout.ranks) * prices.inner_s
    return max(outer, inner)


def _visits_s(counts: Counts, layout: Layout, prices: Prices, pairs_inside: float | None, proof: Proof) -> float:
    """What comes into all links, over their number: the busiest takes at least that."""
    share = float(layout.share.max())
    nodes = between_s = 0.0
    if group_bound.applies(layout):
        nodes, between_s = group_bound.least_between_nodes(counts, layout, prices)
    elif layout.nodes > 1:
        nodes = least_visits(counts, node_sizes(layout), layout.replicas, pairs_inside, proof)
        between_s = nodes * (1 - share) * prices.outer_s / layout.ranks
    if prices.dispatch == "nodes":
        inner = _rank_visits(counts, layout, prices, proof) * (1 - 1 / min(layout.ranks_per_node))
        return hops_s(between_s, inner * prices.inner_s / layout.ranks, prices.turns)
    ranks = max(nodes, _rank_visits(counts, layout, prices, proof))
    inner = max(0.0, float(layout.share.min()) - 1 / layout.ranks)
    return ranks * max((1 - share) * prices.outer_s, inner * prices.inner_s) / layout.ranks


def _rank_visits(counts: Counts, layout: Layout, prices: Prices, proof: Proof) -> float:
    """Ranks that a token visits at least; where links between nodes alone decide, by their slots."""
    if layout.ranks > 1 and (layout.nodes == 1 or prices.dispatch == "ranks" or prices.turns):
        return least_visits(counts, np.asarray(layout.slots), layout.replicas, None, proof)
    return -(-counts.top_k // max(layout.slots))


def least_visits(
    counts: Counts, sizes: Ints, replicas: int = 0, pairs_inside: float | None = None, proof: Proof = "quick"
) -> float:
    """Parts of the given sizes that a token visits at least, in the mean over tokens."""
    hull = np.array(visits_hull(counts.top_k, len(sizes), int(sizes.max())), np.float64)
    together = np.pad(counts.together, (0, replicas))  # places of further copies are empty at first
    inside = most_inside(together, sizes, pairs_inside) + _further(counts.together, sizes, replicas)
    least = float(np.interp(inside, hull[:, 0], hull[:, 1]))
    if proof == "quick" or len(set(sizes.tolist())) > 1:
        return least
    return max(least, fractional_visits(counts.choices, counts.experts, len(sizes), hull, replicas))


def _further(together: NDArray[np.float64], sizes: Ints, replicas: int) -> float:
    """Pairs, a token, that further copies bring together at most: each expert with those it meets most often."""
    others = min(int(sizes.max()) - 1, len(together))
    most = np.sort(together, axis=1)[:, len(together) - others :].sum(1)
    return float(np.sort(np.repeat(most, len(sizes) - 1))[::-1][:replicas].sum())


@lru_cache(maxsize=64)
def visits_hull(top_k: int, parts: int, largest: int) -> tuple[tuple[int, int], ...]:
    """Corners (pairs inside parts, parts visited) of the lower convex hull over all ways to lay a token's experts."""
    fewest: dict[int, int] = {}
    for counts in _splits(top_k, parts, min(top_k, largest)):
        inside = sum(each * (each - 1) // 2 for each in counts)
        fewest[inside] = min(len(counts), fewest.get(inside, len(counts)))
    hull: list[tuple[int, int]] = []
    for point in sorted(fewest.items()):
        while len(hull) > 1 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    while len(hull) > 1 and hull[-1][1] >= hull[-2][1]:  # more pairs never cost visits
        hull.pop()
    return tuple(hull)


def _splits(total: int, parts: int, most: int) -> Iterator[tuple[int, ...]]:
    """Ways to write `total` as a falling sum of at most `parts` numbers up to `most`."""
    if total == 0:
        yield ()
    elif parts:
        for first in range(min(total, most), 0, -1):
            for rest in _splits(total - first, parts - 1, first):
                yield (first, *rest)


def _above(left: tuple[int, int], middle: tuple[int, int], right: tuple[int, int]) -> bool:
    rise = (right[1] - left[1]) * (middle[0] - left[0])
    return (middle[1] - left[1]) * (right[0] - left[0]) >= rise


def most_inside(
    together: NDArray[np.float64], sizes: Ints, target: float | None = None, steps: int | None = None
) -> float:
    """Pairs inside parts of the given sizes, a token: an upper bound of the mean over any placement.

    `target` is what a placement reaches: the steps are as long as they would be were it the optimum (Polyak).
    """
    size = len(together)
    steps = steps if steps is not None else 4 if size <= 96 else 2
    diagonal = -together.sum(1)
    best = float(together.sum()) / 2
    for _ in range(steps):
        value, slope = _eigenvalue_bound(together, diagonal, sizes)
        best = min(best, value)
        norm = float(slope @ slope)
        goal = best * 0.95 if target is None else target
        if norm < 1e-18 or value <= goal:
            break
        diagonal = diagonal - 1.0 * 2 * (value - goal) / norm * slope
    return best


def _eigenvalue_bound(
    together: NDArray[np.float64], diagonal: NDArray[np.float64], sizes: Ints
) -> tuple[float, NDArray[np.float64]]:
    """Pairs inside (an upper bound) with this diagonal added, and twice its slope in the diagonal."""
    size, parts = len(together), len(sizes)
    matrix = together + np.diag(diagonal)
    if len(set(sizes.tolist())) == 1:
        centre = matrix - matrix.mean(0) - matrix.mean(1)[:, None] + matrix.mean()
        centre -= np.abs(matrix).sum() / size  # the constant vector goes to the low end
        values, vectors = np.linalg.eigh(centre)
        top = np.full(parts - 1, size / parts)
        fixed, own = float(matrix.sum()) / parts, 1 / parts
    else:
        shift = float(matrix.sum()) / size**2
        values, vectors = np.linalg.eigh(matrix - shift)
        top = np.sort(sizes)[::-1].astype(float)
        fixed, own = shift * float(np.sum(np.square(sizes))), 0.0
    used = len(top)
    high = values[::-1][:used]
    value = fixed + float(top @ high) - float(diagonal.sum())
    slope = own + (vectors[:, ::-1][:, :used] ** 2) @ top - 1.0
    # rounding of the eigenvalues must not turn the bound into a claim
    return value / 2 + 1e-9 * abs(value), slope
