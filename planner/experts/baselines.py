"""Baselines: placements that others make, to be compared with: contiguous, random, by load, and EPLB's idea."""

from __future__ import annotations

import numpy as np

from .layout import Layout
from .swaps import dealt
from .trace import Floats, Ints


def random(layout: Layout, seed: int) -> Ints:
    """Ranks [experts], any with equal chance."""
    return np.random.default_rng(seed).permutation(layout.contiguous)


def by_load(load: Floats, layout: Layout) -> Ints:
    """Ranks [experts]: the most loaded first, each to the least loaded rank with room."""
    return dealt(load, np.asarray(layout.slots))


def eplb(load: Floats, layout: Layout) -> list[tuple[int, ...]]:
    """Ranks of each expert, by the idea of github.com/deepseek-ai/EPLB: groups go to nodes by their load where nodes
    hold whole groups; inside a node every further slot goes to the expert with most load a copy; copies go to ranks as
    in `by_load`. Nodes of unequal size, or several in one group, are one. A token takes any copy with equal chance."""
    nested = layout.groups > 1 and layout.groups % layout.nodes == 0 and len(set(layout.ranks_per_node)) == 1
    nodes = layout.nodes if nested and (layout.experts + layout.replicas) % layout.nodes == 0 else 1
    size = layout.experts // layout.groups
    groups = np.asarray(load).reshape(layout.groups, size).sum(1)
    even = np.full(nodes, layout.groups // nodes if nodes > 1 else layout.groups)
    node_of = np.repeat(dealt(groups, even), size) if nodes > 1 else np.zeros(layout.experts, np.intp)
    hosts: list[set[int]] = [set() for _ in range(layout.experts)]
    slots = np.asarray(layout.slots).reshape(nodes, -1) if nodes > 1 else np.asarray(layout.slots)[None]
    for node in range(nodes):
        experts = np.flatnonzero(node_of == node)
        copies = _copies(load[experts], int(slots[node].sum()) - len(experts))
        owner = np.repeat(experts, copies)
        ranks = dealt(load[owner] / np.repeat(copies, copies), slots[node])
        for expert, rank in zip(owner.tolist(), ranks.tolist(), strict=True):
            hosts[expert].add(rank + node * slots.shape[1])
    return [tuple(sorted(each)) for each in hosts]


def _copies(load: Floats, more: int) -> Ints:
    """Of each expert: one, and `more` in all, each to the expert with most load a copy."""
    copies = np.ones(len(load), np.intp)
    for _ in range(more):
        copies[np.argmax(load / copies)] += 1
    return copies
