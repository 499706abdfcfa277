"""What follows the pipeline in a step: gradient reduction, optimizer, parameter gathers, by ZeRO stage.

Assumptions, those of Megatron's --overlap-grad-reduce/--overlap-param-gather and of FSDP2's prefetch: reduction runs
beside the backward that makes the gradients, layer by layer; gathers run beside the forward that uses them. The last
layer's reduction and the first layer's gather have nothing to hide behind. Gradients travel in fp32, weights in the
precision of compute. With gradient accumulation ZeRO 0 and 1 reduce once a step, 2 and 3 every microbatch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..configuration import Configuration
from .blocks import ModelCosts
from .communication import all_gather_s, all_reduce_s, reduce_scatter_s
from .memory import RECIPES, Held
from .setting import Setting

ADAMW_BYTES = {"bf16": 34, "fp16": 34, "fp8": 35, "fp32": 32}
"""Memory traffic per owned parameter: gradient read twice (norm, update) 8, master, momentum and variance read and
written 24, the 16-bit weight written 2. In fp32 the weight is the master."""


@dataclass(frozen=True, slots=True)
class Tail:
    """Seconds a step takes beyond its pipeline, by cause."""

    dp_s: float
    optimizer_s: float
    offload_s: float

    @property
    def total_s(self) -> float:
        return self.dp_s + self.optimizer_s + self.offload_s


def rank_parameters(costs: ModelCosts, configuration: Configuration, rank: int, tied: bool) -> Held:
    """Parameters of one device of a pipeline rank; tied embeddings stand on the first and on the last stage."""
    dense = expert = 0.0
    for stage in configuration.stages_of(rank):
        layers = configuration.layer_range(stage)
        dense += costs.dense[layers.stop] - costs.dense[layers.start]
        expert += costs.expert[layers.stop] - costs.expert[layers.start]
    held = Held(dense, expert)
    if rank == 0:
        held += costs.embedding.held
    if rank == configuration.mesh.pp - 1:
        held += costs.head.held
        if tied and configuration.mesh.pp > 1:
            held += costs.embedding.held
    return held


def owned(held: Held, configuration: Configuration) -> float:
    """Parameters whose optimizer states one device keeps."""
    mesh = configuration.mesh
    if configuration.zero == 0:
        return held.total
    return held.dense / (mesh.dp * mesh.cp) + held.expert / mesh.edp


def step_tail(
    setting: Setting, configuration: Configuration, forward_s: tuple[float, ...], backward_s: tuple[float, ...]
) -> Tail:
    """Everything after the pipeline; `forward_s`, `backward_s`: one microbatch per virtual stage.

    Rank r is done before rank 0 by at least the backward of the stages before it, which hides part of its reduction.
    """
    costs, mesh = setting.costs(configuration), configuration.mesh
    tied = setting.architecture.tied_embeddings
    reduction = optimizer = offload = gather = drained = 0.0
    for rank in range(mesh.pp):
        held = rank_parameters(costs, configuration, rank, tied)
        stages = configuration.stages_of(rank)
        forward, backward = sum(forward_s[v] for v in stages), sum(backward_s[v] for v in stages)
        layers = sum(configuration.stage_layers[v] for v in stages)
        reduce, gathered = _exposed(setting, configuration, held, forward, backward, max(1, layers))
        reduction, gather = max(reduction, reduce - drained), max(gather, gathered)
        states = owned(held, configuration)
        optimizer = max(optimizer, _adamw_s(setting, states))
        offload = max(offload, _offload_s(setting, configuration.offload * states))
        drained += backward_s[rank]
    return Tail(reduction + gather + _tied_s(setting, configuration), optimizer, offload)


def _exposed(
    setting: Setting, configuration: Configuration, held: Held, forward_s: float, backward_s: float, layers: int
) -> tuple[float, float]:
    """Exposed seconds (gradient reduction, parameter gathers) of one rank in a step."""
    if not setting.hides_communication:
        forward_s = backward_s = 0.0
    zero, microbatches = configuration.zero, configuration.microbatches
    gather = _over_data(setting, configuration, held, setting.element_bytes, "gather", layers)
    reduce = _over_data(setting, configuration, held, 4, "all-reduce" if zero == 0 else "scatter", layers)
    overlaps = setting.framework
    last = _beside(reduce, backward_s if overlaps.overlaps_reduce else 0.0, layers)
    if zero == 0:
        return last, 0.0
    if zero == 1:
        return last, _beside(gather, forward_s if overlaps.overlaps_gather else 0.0, layers)
    if zero == 2:
        earlier = max(0.0, reduce - forward_s - backward_s)
        return last + (microbatches - 1) * earlier, _beside(gather, forward_s, layers)
    backward = max(reduce / layers, gather + reduce - backward_s * (layers - 1) / layers)
    return microbatches * backward, microbatches * _beside(gather, forward_s, layers)


def _beside(collective_s: float, compute_s: float, layers: int) -> float:
    """Exposed part of a collective that goes layer by layer beside compute: at least one layer's share."""
    return max(collective_s / layers, collective_s - compute_s * (layers - 1) / layers)


def _over_data(setting: Setting, configuration: Configuration, held: Held, each: int, kind: str, layers: int) -> float:
    """Seconds of the collectives over all gradients or weights of a rank, `each` bytes a parameter. There is one a
    layer (FSDP2's units, Megatron's buckets): each pays the latency of its group."""
    mesh = configuration.mesh
    collective = {"gather": all_gather_s, "scatter": reduce_scatter_s, "all-reduce": all_reduce_s}[kind]
    total = layers * collective(setting.group(mesh.tp, mesh.dp * mesh.cp), each * held.dense / layers)
    if held.expert:
        total += layers * collective(setting.group(mesh.ep * mesh.etp, mesh.edp), each * held.expert / layers)
    return total * setting.framework.costs.network


def _adamw_s(setting: Setting, parameters: float) -> float:
    traffic = ADAMW_BYTES[setting.job.precision] * parameters
    return traffic / setting.rates.elementwise_bytes_per_s + setting.rates.launch_s + setting.framework.costs.step_s


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
