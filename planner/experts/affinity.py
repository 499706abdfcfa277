"""Affinity: experts placed by which of them follow one another, layer after layer.

For runs whose tokens stay where the last expert computed them instead of returning to a home rank (inference with every
rank holding all contexts): what counts is then how many of a token's experts in a layer share a node, or a rank, with
those of the layer before. In training tokens return after every layer and this saves nothing: `place` is for training.

"exflow": all layers together, as few changes of node as possible, then of rank (arXiv:2401.08383). "moetuner": in each
layer experts that follow the same experts are grouped, even in load, and the groups then laid on ranks by where tokens
come from (arXiv:2502.06643). Both papers solve integer programs; here exchanges improve them from the same starts.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .counts import Counts, counted
from .layout import Layout, node_sizes
from .place import transposed
from .statistics import transitions
from .swaps import dealt, improved
from .trace import Ints, Trace

Objective = Literal["exflow", "moetuner"]
Array = NDArray[np.float64]

_SWEEPS = 8
_LOAD = 20.0
"""Weight of the variation of load beside shared predecessors, where MoETuner asks for groups of even load."""


def coherent(trace: Trace, layout: Layout, objective: Objective = "exflow", window: int = 4096) -> Ints:
    """Ranks [layers, experts] for tokens that do not return; without replicas and group limits."""
    choices = transposed(trace, window)
    counts = [counted(layer, layout.experts, window) for layer in choices]
    steps = [transitions(a, b, layout.experts) / a.shape[1] for a, b in pairwise(choices)]
    if objective == "moetuner":
        return _grouped(counts, steps, layout)
    nodes = _swept(counts, steps, node_sizes(layout), None)
    slots = np.asarray(layout.slots)
    return _swept(counts, steps, slots, nodes)


def stays(trace: Trace, rank_of: Ints, layout: Layout) -> tuple[float, float]:
    """Of all pairs of a token's experts in consecutive layers, those on one node and those on one rank."""
    choices = transposed(trace, 4096)
    steps = [transitions(a, b, layout.experts) for a, b in pairwise(choices)]
    total = sum(float(step.sum()) for step in steps)
    nodes = layout.node_of_rank[rank_of]
    found = [
        sum(float(step[a[:, None] == b[None, :]].sum()) for step, (a, b) in zip(steps, pairwise(parts), strict=True))
        for parts in (nodes, rank_of)
    ]
    return found[0] / max(total, 1.0), found[1] / max(total, 1.0)


def _swept(counts: list[Counts], steps: list[Array], sizes: Ints, nodes: Ints | None) -> Ints:
    """Parts [layers, experts]: each layer in turn by what its neighbours have, forth and back, until nothing
    changes."""
    parts = np.stack(
        [_start(each, sizes, None if nodes is None else nodes[layer]) for layer, each in enumerate(counts)]
    )
    for sweep in range(_SWEEPS):
        before = parts.copy()
        for layer in range(len(parts))[:: 1 if sweep % 2 == 0 else -1]:
            value = np.zeros((parts.shape[1], len(sizes)))
            if layer:
                value += steps[layer - 1].T @ np.eye(len(sizes))[parts[layer - 1]]
            if layer + 1 < len(parts):
                value += steps[layer] @ np.eye(len(sizes))[parts[layer + 1]]
            parts[layer] = exchanged(value, parts[layer], None if nodes is None else nodes[layer])
        if (parts == before).all():
            break
    return parts


def _start(counts: Counts, sizes: Ints, nodes: Ints | None) -> Ints:
    """By load; inside the nodes that are given, whose ranks are as many each as their experts ask for."""
    if nodes is None:
        return dealt(counts.load, sizes)
    parts, first = np.zeros(len(nodes), np.intp), 0
    for node in range(int(nodes.max()) + 1):
        inside = np.flatnonzero(nodes == node)
        last = first + int(np.searchsorted(np.cumsum(sizes[first:]), len(inside))) + 1
        parts[inside] = first + dealt(counts.load[inside], sizes[first:last])
        first = last
    return parts


def exchanged(value: Array, parts: Ints, parents: Ints | None = None) -> Ints:
    """Parts [experts] after exchanges that raise the sum of `value` [experts, parts], the best first."""
    parts, rows = parts.copy(), np.arange(len(parts))
    for _ in range(4 * len(parts)):
        there = value[:, parts] - value[rows, parts][:, None]
        gain = there + there.T
        if parents is not None:
            gain[parents[:, None] != parents[None, :]] = 0.0
        first, second = divmod(int(gain.argmax()), len(parts))
        if gain[first, second] <= 1e-12:
            break
        parts[first], parts[second] = parts[second], parts[first]
    return parts


def _grouped(counts: list[Counts], steps: list[Array], layout: Layout) -> Ints:
    """MoETuner's two steps, layer after layer."""
    slots, ranks = np.asarray(layout.slots), np.zeros((len(counts), layout.experts), np.intp)
    for layer, each in enumerate(counts):
        shared = steps[layer - 1].T @ steps[layer - 1] if layer else each.together
        weights = shared / max(float(shared.mean()), 1e-12)
        weights = weights - _LOAD * each.variation / max(float(each.variation.mean()), 1e-12)
        groups = improved(weights.astype(np.float32), dealt(each.load, slots)[None], layout.ranks)[0][0]
        if layer == 0:
            ranks[0] = groups
            continue
        inside = np.eye(layout.ranks)
        arrive = inside[groups].T @ steps[layer - 1].T @ inside[ranks[layer - 1]]
        near = (layout.node_of_rank[:, None] == layout.node_of_rank[None, :]).astype(float)
        place = exchanged(arrive + arrive @ near, np.arange(layout.ranks), np.asarray(layout.slots))
        ranks[layer] = place[groups]
    return ranks
