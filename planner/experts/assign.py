"""Assign: the experts of one layer to nodes, then to the ranks of a node.

Both steps exchange experts on a matrix of pair weights: how often two experts serve one token (kept together, they save
a copy), less a multiple of the variation of load (kept apart, they balance the parts in every window). A ladder of
multiples gives placements from least traffic to most even load; the price decides among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .counts import Counts
from .layout import Layout, node_sizes
from .levels import levelled
from .metrics import traffic_of, visits_of
from .polish import polished
from .prices import Prices, between_nodes_s, inside_nodes_s
from .swaps import dealt, improved, starts
from .trace import Ints

LADDER = (1.0, 4.0)
STEEP = (20.0, 80.0)
"""Weight of the variation of load beside that of pairs: both are shares of tokens, so they need no units. What a
larger one gains in load on the tokens that it was fitted to does not hold on others: it is tried only where a limit
asks for it."""

_STARTS = {64: 12, 128: 6}
_FEW_STARTS = 3
"""Starts by number of experts: a run takes about the square of it, and large layers gain less from another."""

_MORE_STARTS = {3: 40, 4: 40}
"""Starts by number of nodes, of up to 64 experts: two halves have few local optima, many small parts cost much."""

_TRIAL_TOKENS = 4096
_POLISH_TOKENS = 6144
_POLISH_EXPERTS = 96
_COMPARED, _COMPARED_TOKENS, _POLISHED = 8, 16_384, 3
"""Of the placements that pairs of experts call best, so many are compared by visits and the best of them polished where
there are more starts."""


def assignments(
    counts: Counts, layout: Layout, prices: Prices, ladder: tuple[float, ...] = LADDER, known: Ints | None = None
) -> Iterator[Ints]:
    """Ranks [experts] of one layer, one or two for each way to weigh traffic against load; without replicas.

    `known` nodes [experts] are improved instead of several starts.
    """
    variation = counts.variation.astype(np.float32)
    together = counts.together.astype(np.float32)
    if prices.dispatch == "copies":
        ladder, together = (1.0,), np.zeros_like(together)
    for weight in ladder:
        found = _nodes(counts, layout, together, variation, weight, known)
        known = found[0]
        nodes = known if prices.dispatch == "copies" else _polished_nodes(counts, layout, found, variation, weight)
        yield from _ranks(counts, layout, prices, nodes, together - np.float32(weight) * variation, variation)


def _nodes(
    counts: Counts,
    layout: Layout,
    together: NDArray[np.float32],
    variation: NDArray[np.float32],
    weight: float,
    known: Ints | None,
) -> Ints:
    """[found, experts]: node of each expert, the best first, from several starts, or from what the last rung of the
    ladder found."""
    if layout.nodes == 1:
        return np.zeros((1, layout.experts), np.intp)
    weights = together - np.float32(weight) * variation
    sizes = node_sizes(layout)
    unit = units_of(layout)
    if unit > 1:
        weights, sizes = summed(weights, unit), sizes // unit
    blocks = blocks_of(layout)
    if known is not None:
        begin = known[None, ::unit]
    elif blocks is None:
        load = counts.load.reshape(-1, unit).sum(1)
        begin = starts(sizes, load, _number_of_starts(layout.experts, layout.nodes))
    else:
        begin = np.repeat(np.arange(layout.nodes), sizes)[None]
    parts, value = improved(weights, begin, layout.nodes, None if blocks is None else blocks[::unit])
    # starts that end alike have equal values; those of the largest come first
    different = np.unique(value, return_index=True)[1][::-1]
    return np.repeat(parts[different], unit, axis=1)


def nodes_from_starts(counts: Counts, sizes: Ints, weight: float = LADDER[0]) -> Ints:
    """Part [experts] of each expert in parts of these sizes, by pairs less `weight` times the variation of load."""
    weights = (counts.together - weight * counts.variation).astype(np.float32)
    begin = starts(sizes, counts.load, _number_of_starts(counts.experts))
    parts, value = improved(weights, begin, len(sizes))
    return np.asarray(parts[int(value.argmax())])


def _number_of_starts(experts: int, nodes: int = 2) -> int:
    few = next((count for most, count in _STARTS.items() if experts <= most), _FEW_STARTS)
    return max(few, _MORE_STARTS.get(nodes, 0)) if experts <= min(_STARTS) else few


def units_of(layout: Layout) -> int:
    """Experts that go to a node together: one, or a whole group where a node holds groups."""
    size = layout.experts // layout.groups
    return size if layout.groups > 1 and size <= int(node_sizes(layout).min()) else 1


def blocks_of(layout: Layout) -> Ints | None:
    """Group [experts] of each expert where a group fills several nodes: experts change nodes inside it only."""
    size = layout.experts // layout.groups
    return np.arange(layout.experts) // size if layout.groups > 1 and size > int(node_sizes(layout).min()) else None


def summed(weights: NDArray[np.float32], unit: int) -> NDArray[np.float32]:
    """The matrix between blocks of `unit` experts."""
    size = len(weights) // unit
    return np.asarray(weights.reshape(size, unit, size, unit).sum((1, 3)))


def _polished_nodes(counts: Counts, layout: Layout, found: Ints, variation: NDArray[np.float32], weight: float) -> Ints:
    """Of the `found` nodes [found, experts], the best first by pairs, the best by visits."""
    if layout.nodes == 1 or layout.experts > _POLISH_EXPERTS or units_of(layout) > 1:
        return np.asarray(found[0])
    # a pair kept together saves about 1/top_k of a visit: the penalty is weighed by that, as in the steps before
    penalty = np.float32(weight / counts.top_k / 2) * variation
    sample, trial = (counts.choices[:, :: -(-counts.tokens // most)] for most in (_COMPARED_TOKENS, _POLISH_TOKENS))

    def cost(nodes: Ints) -> float:
        inside = nodes[:, None] == nodes[None, :]
        return float(visits_of(nodes, sample, layout.nodes).sum() + penalty[inside].sum())

    several = len(found) > 1 and layout.nodes in _MORE_STARTS
    best = sorted(found[:_COMPARED], key=cost)[:_POLISHED] if several else found[:1]
    done = [polished(trial, nodes, layout.nodes, penalty, blocks_of(layout)) for nodes in best]
    return min(done, key=cost) if len(done) > 1 else done[0]


def _ranks(
    counts: Counts,
    layout: Layout,
    prices: Prices,
    nodes: Ints,
    close: NDArray[np.float32],
    variation: NDArray[np.float32],
) -> Iterator[Ints]:
    """Ranks [experts] inside the nodes: load spread over them, or where copies inside a node may decide, experts of one
    token close together."""
    blocks = list(_blocks(layout, nodes))
    parents = _parents(blocks, layout.experts)
    level = levelled(counts.load, counts.windows, _inside(counts, layout, blocks, -variation), parents)
    yield level
    if prices.dispatch == "ranks" or (prices.dispatch == "nodes" and _inner_binds(counts, layout, prices, level)):
        yield _inside(counts, layout, blocks, close)


def _inner_binds(counts: Counts, layout: Layout, prices: Prices, ranks: Ints) -> bool:
    """Whether copies inside nodes decide: they take longer than those between nodes, or wait for them."""
    if prices.turns:
        return True
    targets = ranks[counts.choices[:, :: -(-counts.tokens // _TRIAL_TOKENS)]]
    traffic = traffic_of(targets, layout.node_of_rank[targets], layout)
    return inside_nodes_s(traffic.ranks, layout, prices) > between_nodes_s(traffic.nodes, layout, prices)


@dataclass(frozen=True, slots=True)
class _Block:
    """Experts that change ranks only among themselves: the slots of those ranks, the first of them, experts a unit."""

    experts: Ints
    slots: Ints
    first: int
    unit: int


def _inside(counts: Counts, layout: Layout, blocks: list[_Block], weights: NDArray[np.float32]) -> Ints:
    """Ranks [experts] from exchanges on `weights` inside blocks; blocks of one shape are solved at once."""
    ranks = np.zeros(layout.experts, np.intp)
    shapes: dict[tuple[int, ...], list[_Block]] = {}
    for block in blocks:
        shapes.setdefault((block.unit, *block.slots.tolist()), []).append(block)
    for alike in shapes.values():
        unit, sizes = alike[0].unit, alike[0].slots // alike[0].unit
        load = [counts.load[block.experts].reshape(-1, unit).sum(1) for block in alike]
        begin = np.stack([dealt(each, sizes) for each in load])
        inner = np.stack([summed(weights[np.ix_(block.experts, block.experts)], unit) for block in alike])
        parts, _ = improved(inner, begin, len(sizes))
        for block, found in zip(alike, parts, strict=True):
            ranks[block.experts] = block.first + np.repeat(found, unit)
    return ranks


def _parents(blocks: list[_Block], experts: int) -> Ints:
    """[experts]: equal where two experts may change ranks; whole groups on one rank are not taken apart."""
    parents = np.zeros(experts, np.intp)
    for number, block in enumerate(blocks):
        apart = np.arange(len(block.experts)) // block.unit if block.unit > 1 else 0
        parents[block.experts] = number * experts + apart
    return parents


def _members(layout: Layout) -> list[Ints]:
    return [np.flatnonzero(layout.node_of_rank == node) for node in range(layout.nodes)]


def _blocks(layout: Layout, nodes: Ints) -> Iterator[_Block]:
    size = layout.experts // layout.groups
    for node, ranks in enumerate(_members(layout)):
        experts, slots = np.flatnonzero(nodes == node), np.asarray(layout.slots)[ranks]
        if layout.groups == 1 or size >= len(experts):
            yield _Block(experts, slots, int(ranks[0]), 1)
        elif size <= slots[0]:
            yield _Block(experts, slots, int(ranks[0]), size)
        else:
            span = size // int(slots[0])
            for number in range(len(experts) // size):
                inside = experts[number * size : (number + 1) * size]
                yield _Block(inside, slots[:span], int(ranks[number * span]), 1)
