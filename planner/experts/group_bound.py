"""Group bound: the least visits of nodes where only whole groups of experts change nodes, by trying all ways.

With group-limited routing a token's groups are what it visits, so tokens are 2^groups kinds with a weight, and groups
on nodes are few: one way for 8 groups on 8 nodes (every placement sends as much), 35 on 2 nodes, 105 on 4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .counts import Counts
from .layout import Layout, node_sizes
from .prices import Prices, between_nodes_s
from .trace import Ints

_MOST_GROUPS = 8


def applies(layout: Layout) -> bool:
    """Whether nodes hold whole groups, and there are few enough of them."""
    size = layout.experts // layout.groups
    return 1 < layout.groups <= _MOST_GROUPS and layout.nodes > 1 and size <= int(node_sizes(layout).min())


def least_between_nodes(counts: Counts, layout: Layout, prices: Prices) -> tuple[float, float]:
    """Visits of nodes a token, and seconds of copies between them: each the least over all ways, for these counts."""
    size = layout.experts // layout.groups
    kinds = _kinds(counts.choices // size, layout.groups)
    ways = [np.array([kinds[mask] for mask in way]) for way in _ways(node_sizes(layout) // size)]
    return min(float(visits.sum()) for visits in ways), min(between_nodes_s(each, layout, prices) for each in ways)


def _kinds(groups: Ints, count: int) -> NDArray[np.float64]:
    """[2^groups]: for each set of groups, the share of tokens that visit any of it."""
    bits = 1 << np.arange(count)
    mask = np.bitwise_or.reduce(bits[groups], axis=0)
    share = np.bincount(mask, minlength=1 << count) / groups.shape[1]
    sets = np.arange(1 << count)
    return np.asarray(((sets[:, None] & sets[None, :]) > 0) @ share)


def _ways(sizes: Ints) -> Iterator[list[int]]:
    """The sets of groups on the nodes, as masks: all ways, of equal nodes one order only."""
    yield from _next([int(each) for each in sizes], (1 << int(sizes.sum())) - 1, [])


def _next(sizes: list[int], left: int, done: list[int]) -> Iterator[list[int]]:
    if len(done) == len(sizes):
        yield done
        return
    node = len(done)
    for mask in _subsets(left, sizes[node]):
        alike = node > 0 and sizes[node] == sizes[node - 1]
        if not alike or mask > done[-1]:
            yield from _next(sizes, left & ~mask, [*done, mask])


def _subsets(mask: int, size: int) -> Iterator[int]:
    part = mask
    while part:
        if part.bit_count() == size:
            yield part
        part = (part - 1) & mask
