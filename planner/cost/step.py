"""The step: from a configuration to a Prediction, and to a lower bound of its time.

    step = pipeline + exposed data parallelism + optimizer + offload

The pipeline is played by the event interpreter over the schedule itself. The bound uses the same times per stage, and
only what no order of work can avoid: before rank r starts, one microbatch has passed the stages before it; then it
computes all its work; then the last microbatch goes back through the stages before it.
"""

from __future__ import annotations

import math

from ...clusters.schema import Origin
from ..configuration import Configuration
from ..plan import Breakdown, Prediction, StageMemory
from ..schedule import build
from ..simulate.engine import StageTimes, makespan
from .blocks import Block, ModelCosts
from .communication import ALONE, pipeline_transfer_s
from .data_parallel import Tail, step_tail
from .footprint import fits, fits_host, footprint
from .setting import Setting
from .sharding import sharding_of

HALF_WIDTHS: dict[Origin, tuple[float, float]] = {
    "analytical": (0.15, 0.60),
    "calibrated": (0.15, 0.45),
    "measured": (0.10, 0.25),
}
"""Relative interval around a step time, by the origin of the device's rates. Stated, not yet validated (see
docs/cost-model.md): wider above, because what the model leaves out (unfused kernels, host delays, contention,
stragglers) only adds time."""


def stage_times(setting: Setting, configuration: Configuration) -> StageTimes:
    """One microbatch through every virtual stage, exposed communication inside a layer included."""
    hop_s = transfer_s(setting, configuration)
    stages = [_stage_s(setting, configuration, stage, hop_s) for stage in range(len(configuration.stage_layers))]
    forward, backward = zip(*stages, strict=True)
    return StageTimes(forward, backward, hop_s)


def _stage_s(setting: Setting, configuration: Configuration, stage: int, hop_s: float) -> tuple[float, float]:
    """Forward and backward of one virtual stage: its compute, or the host's time to issue it where that is longer,
    and the communication that nothing hides."""
    costs, layers = setting.costs(configuration), configuration.layer_range(stage)
    choice = configuration.recompute[stage % configuration.mesh.pp]
    ends = _ends(costs, stage, len(configuration.stage_layers))
    host = _host_s(setting, len(layers))
    rings = _rings_s(setting, configuration, len(layers))
    times = []
    for whole, exposed, of_end, exposed_of_end in (
        (costs.forward, costs.exposed_forward, [b.forward_s for b in ends], [b.exchange.forward_s for b in ends]),
        (
            costs.backward[choice],
            costs.exposed_backward[choice],
            [b.backward_s("none") for b in ends],
            [b.exchange.backward_s for b in ends],
        ),
    ):
        waiting = exposed[layers.stop] - exposed[layers.start] + sum(exposed_of_end)
        compute = whole[layers.stop] - whole[layers.start] + sum(of_end) - waiting
        times.append(max(max(compute, host) + waiting, host + rings))
    return times[0], times[1]


def _host_s(setting: Setting, layers: int) -> float:
    """Seconds that the host takes to issue one direction of a microbatch through a stage."""
    costs = setting.framework.costs
    return layers * costs.host_layer_s + costs.host_microbatch_s


def _rings_s(setting: Setting, configuration: Configuration, layers: int) -> float:
    """Network latency in the tensor-parallel rings of one direction, for the frameworks that wait for it."""
    mesh = configuration.mesh
    if mesh.pp == 1 or not setting.framework.waits_for_rings:
        return 0.0
    path = setting.hop(mesh.dp * mesh.cp * mesh.tp, mesh.pp)
    return layers * RING_WAITS * (mesh.tp - 1) * path.latency_s if path.is_network else 0.0


RING_WAITS = 5
"""Tensor-parallel collectives of a layer, the mean of both directions: two regions of an all-gather and a
reduce-scatter, and in the backward the inputs gathered once more."""


def _ends(costs: ModelCosts, stage: int, stages: int) -> list[Block]:
    """Embedding and head, where this virtual stage holds them; neither is recomputed."""
    found = [costs.embedding] if stage == 0 else []
    return [*found, costs.head] if stage == stages - 1 else found


def transfer_s(setting: Setting, configuration: Configuration) -> float:
    """One microbatch's activations from a stage to the next."""
    mesh, sharding = configuration.mesh, sharding_of(configuration)
    if mesh.pp == 1:
        return 0.0
    path = setting.hop(mesh.dp * mesh.cp * mesh.tp, mesh.pp)
    inner = ALONE if configuration.sp else setting.group(1, mesh.tp)
    tokens = sharding.tokens(setting.job.seq_len)
    return pipeline_transfer_s(path, tokens, setting.architecture.hidden, setting.element_bytes, mesh.tp, inner)


def lower_bound_s(setting: Setting, configuration: Configuration) -> float:
    """Seconds that the step takes at least: never more than `price` says. No schedule is built."""
    times = stage_times(setting, configuration)
    tail = step_tail(setting, configuration, times.forward_s, times.backward_s)
    return pipeline_bound_s(configuration, times) + tail.total_s


def pipeline_bound_s(configuration: Configuration, times: StageTimes) -> float:
    """Seconds from the first forward to the last backward, at least."""
    ranks, microbatches = configuration.mesh.pp, configuration.microbatches
    before, bound = 0.0, 0.0
    for rank in range(ranks):
        work = sum(times.forward_s[v] + times.backward_s[v] for v in configuration.stages_of(rank))
        bound = max(bound, before + microbatches * work)
        before += times.forward_s[rank] + times.backward_s[rank] + 2 * times.transfer_s
    hops = 2 * (len(times.forward_s) - 1) * times.transfer_s
    through = math.fsum(times.forward_s) + math.fsum(times.backward_s) + (hops if ranks > 1 else 0.0)
    return max(bound, through) * (1 - 1e-12)  # sums in another order than the interpreter's


def price(setting: Setting, configuration: Configuration) -> Prediction:
    """What a configuration does: time, memory, and where the time goes."""
    times = stage_times(setting, configuration)
    pipeline = makespan(build(configuration), times)
    tail = step_tail(setting, configuration, times.forward_s, times.backward_s)
    breakdown = _breakdown(setting, configuration, times, pipeline, tail)
    memories = footprint(setting, configuration)
    return _prediction(setting, configuration, pipeline + tail.total_s, breakdown, memories)


def _prediction(
    setting: Setting,
    configuration: Configuration,
    step_s: float,
    breakdown: Breakdown,
    memories: tuple[StageMemory, ...],
) -> Prediction:
    job, world = setting.job, configuration.mesh.world
    model_flops = setting.architecture.training_flops(job.seq_len) * job.global_batch
    repeated = _recomputed_flops(setting, configuration)
    peak = setting.rates.peak_flops * world * step_s
    below, above = HALF_WIDTHS[setting.origin]
    return Prediction(
        step_time_s=step_s,
        step_time_interval_s=(step_s * (1 - below), step_s * (1 + above)),
        tokens_per_s_per_device=job.tokens_per_step / step_s / world,
        model_tflops_per_device=model_flops / step_s / world / 1e12,
        mfu=model_flops / peak,
        hfu=(model_flops + repeated) / peak,
        peak_memory_bytes=tuple(memory.total for memory in memories),
        memory_limit_bytes=setting.memory_limit_bytes,
        fits=fits(setting, memories) and fits_host(setting, configuration),
        memory=memories,
        breakdown_s=breakdown,
        origin=setting.origin,
    )


def _recomputed_flops(setting: Setting, configuration: Configuration) -> float:
    """FLOPs of a step that are computed twice."""
    seq_len, total = setting.job.seq_len, 0.0
    for stage in range(len(configuration.stage_layers)):
        choice = configuration.recompute[stage % configuration.mesh.pp]
        for index in configuration.layer_range(stage):
            layer = setting.architecture.layers[index]
            if choice == "full":
                total += layer.forward_flops(seq_len)
            elif choice == "selective":
                total += layer.attention.score_flops(seq_len)
    return total * setting.job.global_batch


def _breakdown(
    setting: Setting, configuration: Configuration, times: StageTimes, pipeline_s: float, tail: Tail
) -> Breakdown:
    """Seen from the busiest rank: its compute and exposed collectives; of its waiting, what filling and draining
    transfers explain is `pp`, the rest `bubble`."""
    costs, microbatches = setting.costs(configuration), configuration.microbatches
    busy = [
        sum(times.forward_s[v] + times.backward_s[v] for v in configuration.stages_of(rank))
        for rank in range(configuration.mesh.pp)
    ]
    rank = max(range(len(busy)), key=busy.__getitem__)
    tp, cp, ep = (microbatches * each for each in _exchanged(costs, configuration, rank))
    waiting = max(0.0, pipeline_s - microbatches * busy[rank])
    transfers = min(waiting, 2 * (configuration.mesh.pp - 1) * times.transfer_s)
    return Breakdown(
        compute=microbatches * busy[rank] - tp - cp - ep,
        tp=tp,
        cp=cp,
        ep=ep,
        pp=transfers,
        dp=tail.dp_s,
        bubble=waiting - transfers,
        optimizer=tail.optimizer_s,
        offload=tail.offload_s,
    )


def _exchanged(costs: ModelCosts, configuration: Configuration, rank: int) -> tuple[float, float, float]:
    """Exposed tp, cp and ep seconds of one microbatch on one rank, with what full recomputation repeats."""
    again = 2 if configuration.recompute[rank] == "full" else 1
    stages = len(configuration.stage_layers)
    tp = cp = ep = 0.0
    for stage in configuration.stages_of(rank):
        for index in configuration.layer_range(stage):
            exchange = costs.layers[index].exchange
            tp += again * exchange.tp_forward_s + exchange.tp_backward_s
            cp += again * exchange.cp_forward_s + exchange.cp_backward_s
            ep += again * exchange.ep_forward_s + exchange.ep_backward_s
        for block in _ends(costs, stage, stages):
            tp += block.exchange.forward_s + block.exchange.backward_s
    return tp, cp, ep
