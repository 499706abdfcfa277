"""The step: from a configuration to the work that it asks for, and to a Prediction.

    step = pipeline + exposed data parallelism + optimizer + offload

The event interpreter plays the whole step over the schedule itself; `bound.py` says what it takes at least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ..configuration import Configuration, Module
from ..model import Layer, Mlp, Moe
from ..plan import Breakdown, Prediction
from ..schedule import build
from ..simulate.carded import shares_cards
from ..simulate.engine import StepTime, busy_s, step_time, total_s
from ..simulate.work import Slowness, Work
from .balance import counts_s
from .blocks import ModelCosts
from .cards import card_shares
from .data_parallel import with_data_parallelism
from .footprint import Peak, fits_host, peaks, worst_routing_bytes
from .interval import interval_of
from .replica import Replica, replicas
from .setting import Setting
from .stage import ends_of, stage_times


def work_of(setting: Setting, configuration: Configuration) -> Work:
    """Everything that a step of a configuration asks of its ranks."""
    return with_cards(setting, configuration, bare_work_of(setting, configuration))


def with_cards(setting: Setting, configuration: Configuration, work: Work) -> Work:
    """The same work, with what it takes of network cards."""
    return replace(work, cards=card_shares(setting, configuration))


def bare_work_of(setting: Setting, configuration: Configuration) -> Work:
    """The same, if nothing shared a card: no step takes less."""
    return with_data_parallelism(setting, configuration, stage_times(setting, configuration))


def step_s(setting: Setting, configuration: Configuration) -> float:
    """Seconds of a step alone."""
    return max(total_s(build(asked), work_of(seen, asked)) for seen, asked in replicas(setting, configuration))


def steps_s(setting: Setting, configuration: Configuration, bare: Work) -> Iterator[float]:
    """Seconds of a step whose bare work is known, behind what it takes if nothing shares a card, where that is another:
    it is no more, and played in a tenth of the time."""
    schedule, work = build(configuration), with_cards(setting, configuration, bare)
    if shares_cards(schedule, work):
        yield total_s(schedule, bare)
    yield total_s(schedule, work)


def slowest_replica(setting: Setting, configuration: Configuration) -> Replica:
    """The replica that a step waits for."""
    found = replicas(setting, configuration)
    return found[0] if len(found) == 1 else max(found, key=lambda replica: step_s(*replica))


def price(setting: Setting, configuration: Configuration, slow: Slowness | None = None) -> Prediction:
    """What a configuration does: time, memory, and where the time goes; `slow` adds stragglers."""
    seen, asked = slowest_replica(setting, configuration)
    work = work_of(seen, asked)
    if slow is not None:
        work = replace(work, slow=slow)
    schedule = build(asked)
    step = step_time(schedule, work)
    breakdown = _breakdown(seen, asked, busy_s(schedule, work), step)
    return _prediction(setting, configuration, step.total_s, breakdown, peaks(setting, configuration))


def _prediction(
    setting: Setting,
    configuration: Configuration,
    step_s: float,
    breakdown: Breakdown,
    peaks: tuple[Peak, ...],
) -> Prediction:
    job, world = setting.job, configuration.mesh.world
    model_flops = setting.architecture.training_flops(job.seq_len) * job.global_batch
    repeated = _recomputed_flops(setting, configuration)
    peak = setting.peak_flops(world) * step_s
    used = setting.used(configuration)
    spread = interval_of(used, configuration)
    return Prediction(
        step_time_s=step_s,
        step_time_interval_s=(step_s * spread.low, step_s * spread.high),
        tokens_per_s_per_device=job.tokens_per_step / step_s / world,
        model_tflops_per_device=model_flops / step_s / world / 1e12,
        mfu=model_flops / peak,
        hfu=(model_flops + repeated) / peak,
        peak_memory_bytes=tuple(each.memory.total for each in peaks),
        worst_routing_bytes=worst_routing_bytes(setting, configuration),
        memory_limit_bytes=min(each.limit_bytes for each in peaks),
        memory_limits_bytes=tuple(each.limit_bytes for each in peaks) if setting.is_mixed else (),
        fits=all(each.fits for each in peaks) and fits_host(setting, configuration),
        memory=tuple(each.memory for each in peaks),
        breakdown_s=breakdown,
        origin=used.origin,
    )


def _recomputed_flops(setting: Setting, configuration: Configuration) -> float:
    """FLOPs of a step that are computed twice."""
    seq_len, total = setting.job.seq_len, 0.0
    for stage in range(len(configuration.stage_layers)):
        rank = configuration.rank_of(stage)
        choice, costs = configuration.recompute[rank], setting.at(configuration, rank).costs(configuration)
        for index in configuration.layer_range(stage):
            layer = setting.architecture.layers[index]
            if choice == "full":
                kept = costs.layers[index].attention_kept
                total += layer.forward_flops(seq_len) - kept * layer.attention.score_flops(seq_len)
            elif choice == "selective":
                total += _operations_flops(layer, configuration.recompute_operations, seq_len)
    return total * setting.job.global_batch


def _operations_flops(layer: Layer, operations: Collection[Module], seq_len: int) -> float:
    """Model FLOPs of one sequence through some operations of a layer, forward."""
    ffn, total = layer.ffn, 0.0
    if "core_attn" in operations:
        total += layer.attention.score_flops(seq_len)
    if isinstance(ffn, Moe) and "moe" in operations:
        total += 2.0 * ffn.active_matmul_parameters(layer.hidden) * seq_len
    if isinstance(ffn, Mlp) and "mlp" in operations:
        total += 2.0 * ffn.matmul_parameters(layer.hidden) * seq_len
    if "mla_up_proj" in operations:
        total += 2.0 * layer.attention.up_parameters(layer.hidden) * seq_len
    return total


def _breakdown(setting: Setting, configuration: Configuration, busy: tuple[float, ...], step: StepTime) -> Breakdown:
    """Seen from the busiest rank: its compute and exposed collectives; of its waiting, `pp` is what the
    pipeline would save if transfers cost nothing, the rest `bubble`. What data parallelism adds to that is `dp`."""
    rank, microbatches = max(range(len(busy)), key=busy.__getitem__), configuration.microbatches
    costs = setting.at(configuration, rank).costs(configuration)
    tp, cp, ep = (microbatches * each for each in _exchanged(costs, configuration, rank))
    ep += microbatches * _counts_s(setting, configuration, rank)
    waiting = max(0.0, step.pipeline_s - busy[rank])
    transfers = min(waiting, step.transfers_s)
    return Breakdown(
        compute=busy[rank] - tp - cp - ep,
        tp=tp,
        cp=cp,
        ep=ep,
        pp=transfers,
        dp=step.exposed_s,
        bubble=waiting - transfers,
        optimizer=step.optimizer_s,
        offload=step.offload_s,
    )


def _counts_s(setting: Setting, configuration: Configuration, rank: int) -> float:
    """Of one microbatch on one rank, to balance experts."""
    ranges = [configuration.layer_range(stage) for stage in configuration.stages_of(rank)]
    layers = [setting.architecture.layers[index] for each in ranges for index in each]
    return counts_s(setting.at(configuration, rank), configuration, layers)


def _exchanged(costs: ModelCosts, configuration: Configuration, rank: int) -> tuple[float, float, float]:
    """Exposed tp, cp and ep seconds of one microbatch on one rank, with what full recomputation repeats."""
    again = 2 if configuration.recompute[rank] == "full" else 1
    stages = len(configuration.stage_layers)
    tp = cp = ep = 0.0
    for stage in configuration.stages_of(rank):
        for index in configuration.layer_range(stage):
            exchange = costs.layers[index].exchange
            tp += again * exchange.tp_forward_s + exchange.tp_backward_s
            cp += exchange.cp_forward_s + exchange.cp_backward_s + (again - 1) * costs.layers[index].cp_again_s
            ep += again * exchange.ep_forward_s + exchange.ep_backward_s
        ends = ends_of(costs, stage, stages)
        if costs.shares is not None and stage == configuration.stages_of(rank)[0]:
            ends = [*ends, *costs.shares]
        for block in ends:
            tp += block.exchange.forward_s + block.exchange.backward_s
    return tp, cp, ep
