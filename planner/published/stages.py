"""How a framework splits layers into pipeline stages when nobody tells it to."""

from __future__ import annotations

from itertools import accumulate

from ..frameworks.framework import Framework
from ..model import Architecture
from ..search.partition import balanced_split, even_split


def stage_layers(
    framework: Framework, architecture: Architecture, stages: int, seq_len: int, redistributed: bool = False
) -> tuple[int, ...]:
    """Layers of every stage, first to last: even, or balanced with the head as one more block; `redistributed` where a
    row says that layers moved away from the head (VocabularyParallelism's `redis`: by FLOPs)."""
    if redistributed:
        flops = [layer.forward_flops(seq_len) for layer in architecture.layers]
        return balanced_split(flops, stages, last_s=architecture.head_flops(seq_len))
    if framework.balances_stages and stages > 1:
        return _by_cost(architecture, stages)
    return even_split(len(architecture.layers), stages)


def _by_cost(architecture: Architecture, stages: int) -> tuple[int, ...]:
    """nanotron (src/nanotron/models/base.py, build_model): a stage takes blocks until their running cost passes its
    even share; a layer costs its matmul parameters (keys and values counted as wide as queries), the output projection
    vocabulary x hidden, and comes last. Early stages hold more than their share, the last one often no layer at all."""
    hidden = architecture.hidden
    costs = [layer.active_parameters - layer.norm_parameters for layer in architecture.layers]
    running = list(accumulate([*costs, architecture.vocab * hidden]))
    counts, stage = [0] * stages, 0
    for cost in running[:-1]:
        counts[stage] += 1
        if cost > running[-1] * (stage + 1) / stages:
            stage += 1
    return tuple(counts)
