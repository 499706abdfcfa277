"""How a framework splits layers into pipeline stages when nobody tells it to."""

from __future__ import annotations

from itertools import accumulate

from ..frameworks.framework import Framework
from ..model import Architecture
from ..search.partition import balanced_split, even_split


def stage_layers(
    framework: Framework, architecture: Architecture, stages: int, seq_len: int = 0, redistributed: bool = False
) -> tuple[int, ...]:
    """Layers of every stage, first to last: even, or balanced with the head as one more block. Where the layers do not
    divide, Megatron counts embedding and loss as a layer each if they do then (--account-for-embedding-in-pipeline-
    split), else fills the stages from the front, as DeepSeek-V3's layouts do. `redistributed`: layers moved away from
    the head, by FLOPs (VocabularyParallelism's `redis`)."""
    if redistributed:
        flops = [layer.forward_flops(seq_len) for layer in architecture.layers]
        return balanced_split(flops, stages, last_s=architecture.head_flops(seq_len))
    if framework.balances_stages and stages > 1:
        return _by_cost(architecture, stages)
    further = architecture.further_tokens
    layers = len(architecture.layers) - further
    if layers % stages == 0 or stages == 1:
        split = even_split(layers, stages)
    elif (layers + 2) % stages == 0:
        each = (layers + 2) // stages
        split = (each - 1, *(each,) * (stages - 2), each - 1)
    elif framework.fills_stages and layers > stages:
        split = _filled(layers, stages)
    else:
        split = even_split(layers, stages)
    return (*split[:-1], split[-1] + further)


def _filled(layers: int, stages: int) -> tuple[int, ...]:
    """As many layers each as the first stages need to leave the fewest to the last ones."""
    each = -(-layers // stages)
    return tuple(max(0, min(each, layers - stage * each)) for stage in range(stages))


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
