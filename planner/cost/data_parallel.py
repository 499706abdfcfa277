"""What data parallelism adds to a step, by ZeRO stage: gathers, reductions, the optimizer and offload transfers.

When they happen beside the pipeline is the event interpreter's (`simulate/engine.py`), after Megatron's
--overlap-grad-reduce/--overlap-param-gather and FSDP2's prefetch. Gradients travel in fp32, weights in the precision of
compute. With gradient accumulation ZeRO 0 and 1 reduce once a step, 2 and 3 every microbatch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...clusters.topology import GroupPaths
from ..configuration import Configuration
from ..simulate.work import Work
from .blocks import ModelCosts
from .communication import all_gather_s, all_reduce_s, reduce_scatter_s
from .memory import RECIPES, Held
from .setting import Setting

ADAMW_BYTES = {"bf16": 34, "fp16": 34, "fp8": 35, "fp32": 32}
"""Memory traffic per owned parameter: gradient read twice (norm, update) 8, master, momentum and variance read and
written 24, the 16-bit weight written 2. In fp32 the weight is the master."""


GRADIENT_BYTES = 4
Collective = Callable[[GroupPaths, float], float]


def stage_parameters(costs: ModelCosts, configuration: Configuration, stage: int, tied: bool) -> Held:
    """Parameters of one device of a virtual stage; tied embeddings stand on the first and on the last stage."""
    layers, last = configuration.layer_range(stage), len(configuration.stage_layers) - 1
    held = Held(
        costs.dense[layers.stop] - costs.dense[layers.start], costs.expert[layers.stop] - costs.expert[layers.start]
    )
    if stage == 0:
        held += costs.embedding.held
    if stage == last:
        held += costs.head.held
        if tied and configuration.mesh.pp > 1:
            held += costs.embedding.held
    return held


def rank_parameters(costs: ModelCosts, configuration: Configuration, rank: int, tied: bool) -> Held:
    """Parameters of one device of a pipeline rank, all its virtual stages."""
    held = Held(0.0)
    for stage in configuration.stages_of(rank):
        held += stage_parameters(costs, configuration, stage, tied)
    return held


def owned(held: Held, configuration: Configuration) -> float:
    """Parameters whose optimizer states one device keeps."""
    mesh = configuration.mesh
    if configuration.zero == 0:
        return held.total
    return held.dense / (mesh.dp * mesh.cp) + held.expert / mesh.edp


def with_data_parallelism(setting: Setting, configuration: Configuration, pipeline: Work) -> Work:
    """The work of a pipeline with its collectives, optimizer and offload transfers."""
    costs, zero = setting.costs(configuration), configuration.zero
    known: dict[tuple[Held, int], tuple[float, float]] = {}
    gathers, reduces, pieces = [], [], []
    for stage, layers in enumerate(configuration.stage_layers):
        held = stage_parameters(costs, configuration, stage, setting.architecture.tied_embeddings)
        key = held, max(1, layers)
        if key not in known:
            known[key] = _collectives_s(setting, configuration, *key)
        gather, reduce = known[key]
        gathers.append(gather)
        reduces.append(reduce)
        pieces.append(key[1])
    optimizers, offloads = _after_s(setting, configuration)
    return replace(
        pipeline,
        gather_s=tuple(gathers),
        reduce_s=tuple(reduces),
        pieces=tuple(pieces),
        zero=zero,
        hides=setting.hides_communication,
        tied_s=_tied_s(setting, configuration),
        optimizer_s=optimizers,
        offload_s=offloads,
    )


def _collectives_s(setting: Setting, configuration: Configuration, held: Held, layers: int) -> tuple[float, float]:
    """Seconds of one all-gather and of one reduction over all that a stage holds."""
    zero, element = configuration.zero, setting.element_bytes
    gather = _over_data(setting, configuration, held, element, all_gather_s, layers) if zero else 0.0
    reduction = reduce_scatter_s if zero else all_reduce_s
    return gather, _over_data(setting, configuration, held, GRADIENT_BYTES, reduction, layers)


def _over_data(
    setting: Setting, configuration: Configuration, held: Held, each: int, collective: Collective, layers: int
) -> float:
    """Seconds of the collectives over all gradients or weights of a stage, `each` bytes a parameter. There is one a
    layer (FSDP2's units, Megatron's buckets): each pays the latency of its group."""
    mesh = configuration.mesh
    total = layers * collective(setting.group(mesh.tp, mesh.dp * mesh.cp), each * held.dense / layers)
    if held.expert:
        total += layers * collective(setting.group(mesh.ep * mesh.etp, mesh.edp), each * held.expert / layers)
    return total


def _after_s(setting: Setting, configuration: Configuration) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of the optimizer and of the offload transfers, by pipeline rank."""
    costs, tied = setting.costs(configuration), setting.architecture.tied_embeddings
    states = [
        owned(rank_parameters(costs, configuration, rank, tied), configuration) for rank in range(configuration.mesh.pp)
    ]
    optimizers = tuple(_adamw_s(setting, each) for each in states)
    return optimizers, tuple(_offload_s(setting, configuration.offload * each) for each in states)


def _adamw_s(setting: Setting, parameters: float) -> float:
    traffic = ADAMW_BYTES[setting.job.precision] * parameters
    return traffic / setting.rates.elementwise_bytes_per_s + setting.rates.launch_s


def _offload_s(setting: Setting, parameters: float) -> float:
    """Offloaded states pass through the host link in and out once a step, not hidden."""
    return 2 * RECIPES[setting.job.precision].states * parameters / setting.host_link_bytes_per_s


def _tied_s(setting: Setting, configuration: Configuration) -> float:
    """First and last stage sum the gradients of a shared embedding (Megatron's embedding group)."""
    mesh = configuration.mesh
    if mesh.pp == 1 or not setting.architecture.tied_embeddings:
        return 0.0
    path = setting.hop(mesh.dp * mesh.cp * mesh.tp, mesh.pp)
    return 4 * setting.costs(configuration).embedding.held.total / path.bandwidth_bytes_per_s + 2 * path.latency_s
