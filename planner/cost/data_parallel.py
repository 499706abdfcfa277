"""What data parallelism adds to a step, by ZeRO stage: gathers, reductions, the optimizer and offload transfers.

When they happen beside the pipeline is the event interpreter's (`simulate/engine.py`), after Megatron's
--overlap-grad-reduce/--overlap-param-gather and FSDP2's prefetch, unless the framework reduces or gathers after the
last backward. Gradients travel in fp32 (or as the framework has it), weights in the precision of compute. With gradient
accumulation ZeRO 0 and 1 reduce once a step, 2 and 3 every microbatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ...clusters.topology import GroupPaths
from ...kernels.facts.quantise import MESSAGE_BYTES
from ..compression import moved_bytes
from ..configuration import Configuration
from ..simulate.work import Work
from .blocks import ModelCosts
from .communication import all_gather_s, all_reduce_s, all_to_all_s, point_to_point_s, reduce_scatter_s
from .declared import STATE_BYTES, Declared, adamw_bytes
from .memory import Held
from .offload import adamw_s, of_ends, swap_s, update_s
from .passes import optimizer_s
from .projected import NOTHING
from .setting import Setting
from .units import units_of

ADAMW_BYTES = {"bf16": 34, "fp16": 34, "fp8": 35, "fp32": 32}
"""Memory traffic per owned parameter: gradient read twice (norm, update) 8, master, momentum and variance read and
written 24, the 16-bit weight written 2. In fp32 the weight is the master."""
GRADIENT_BYTES = 4

Collective = Callable[[GroupPaths, float], float]


def rank_parameters(costs: ModelCosts, configuration: Configuration, rank: int, tied: bool) -> Held:
    """Parameters of one device of a pipeline rank, all its virtual stages."""
    layers = [configuration.layer_range(stage) for stage in configuration.stages_of(rank)]
    first, last = configuration.rank_of(0) == rank, configuration.holds_last_stage(rank)
    return range_parameters(costs, configuration, layers, first, last, tied)


def range_parameters(
    costs: ModelCosts, configuration: Configuration, layers: Iterable[range], first: bool, last: bool, tied: bool
) -> Held:
    """The same of a rank with these layers, whatever the configuration says of them, and these ends."""
    dense = expert = 0.0
    sums, projected = costs.projected, None
    for each in layers:
        dense += costs.dense[each.stop] - costs.dense[each.start]
        expert += costs.expert[each.stop] - costs.expert[each.start]
        if sums is not None:
            projected = (projected or NOTHING) + sums[each.stop] - sums[each.start]
    held = _with_ends(Held(dense, expert, projected), costs, configuration, first, last, tied)
    return held if costs.shares is None else held + costs.shared


def stage_parameters(costs: ModelCosts, configuration: Configuration, tied: bool) -> list[Held]:
    """Parameters of one device, by virtual stage; without those that every rank has of a spread vocabulary."""
    found, start, last = [], 0, len(configuration.stage_layers) - 1
    for stage, count in enumerate(configuration.stage_layers):
        stop = start + count
        projected = None if costs.projected is None else costs.projected[stop] - costs.projected[start]
        held = Held(costs.dense[stop] - costs.dense[start], costs.expert[stop] - costs.expert[start], projected)
        if stage in (0, last):
            held = _with_ends(held, costs, configuration, stage == 0, stage == last, tied)
        found.append(held)
        start = stop
    return found


def _with_ends(
    held: Held, costs: ModelCosts, configuration: Configuration, first: bool, last: bool, tied: bool
) -> Held:
    """With embedding and head where they are; tied embeddings stand on the first and on the last stage."""
    if first:
        held += costs.embedding.held
    if last:
        held += costs.head.held
        if tied and configuration.mesh.pp > 1 and costs.shares is None:
            held += costs.embedding.held
    return held


def owned(held: Held, configuration: Configuration) -> float:
    """Parameters whose optimizer states one device keeps."""
    if configuration.zero == 0:
        return held.total
    return held.dense / shards(configuration) + held.expert / configuration.mesh.edp


def shards(configuration: Configuration) -> int:
    """Ranks that share out dense parameters: all of dp x cp, or with hybrid sharding those of one copy."""
    return configuration.mesh.dp * configuration.mesh.cp // configuration.dp_replicate


def with_data_parallelism(setting: Setting, configuration: Configuration, pipeline: Work) -> Work:
    """The work of a pipeline with its collectives, optimizer and offload transfers."""
    costs = setting.at(configuration, 0).costs(configuration)
    held = stage_parameters(costs, configuration, setting.architecture.tied_embeddings)
    optimizers, offloads = _after_s(setting, configuration, _with_shared(configuration, held, costs.shared))
    units = units_of(setting, configuration, [costs.shared.total, *(each.total for each in held)])
    if units is None:
        work = _with_collectives(setting, configuration, pipeline, costs.shared, held)
    else:
        work = units.around(pipeline)
    return replace(work, tied_s=_tied_s(setting, configuration), optimizer_s=optimizers, offload_s=offloads)


def _with_collectives(
    setting: Setting, configuration: Configuration, pipeline: Work, shared: Held, held: list[Held]
) -> Work:
    """By the sizes of what is gathered and reduced. `held` by virtual stage, `shared` on all pipeline ranks."""
    overlaps = configuration.zero != 1 or setting.framework.overlaps_gather
    late = configuration.zero < 2 and not setting.framework.overlaps_reduce
    pieces = tuple(max(1, layers) for layers in configuration.stage_layers)
    seen = [setting.stage_at(configuration, rank) for rank in configuration.placement]
    keys = [(view, each.dense, each.expert, layers) for view, each, layers in zip(seen, held, pieces, strict=True)]
    each_once = dict(zip(keys, held, strict=True))
    known = {key: _collectives_s(key[0], configuration, each, key[3]) for key, each in each_once.items()}
    reductions = [known[key][1] for key in keys]
    copies = [_copies_s(view, configuration, each) for view, each in zip(seen, held, strict=True)]
    if configuration.zero == 1:
        reductions = [each + between for each, between in zip(reductions, copies, strict=True)]
    after = reductions if late else copies if configuration.zero > 1 and any(copies) else []
    after = _with_sums(configuration, after, seen, held)
    gathers, late_s = [known[key][0] for key in keys], _late_s(configuration, after) if after else ()
    if shared.total:  # gathered with a rank's first stage, reduced after everything else
        slowest, firsts = setting.used(configuration), _firsts(configuration)
        gather_s, reduce_s = _collectives_s(slowest, configuration, shared, 1)
        reduce_s += _copies_s(slowest, configuration, shared)
        gathers = [each + gather_s * (stage in firsts) for stage, each in enumerate(gathers)]
        late_s = tuple(each + reduce_s for each in late_s or (0.0,) * configuration.mesh.pp)
    return replace(
        pipeline,
        gather_s=tuple(gathers) if overlaps else (),
        reduce_s=() if late else tuple(reductions),
        late_reduce_s=late_s,
        pieces=pieces,
        zero=3 if configuration.swap_layers else configuration.zero,
        hides=setting.hides_communication and (configuration.zero < 2 or setting.framework.overlaps_shards),
        regather_s=() if overlaps else _regather_s(setting, configuration),
        steal=max(setting.at(configuration, rank).execution.steal for rank in range(configuration.mesh.pp)),
    )


def _firsts(configuration: Configuration) -> list[int]:
    """The first virtual stage of each rank."""
    return [configuration.stages_of(rank)[0] for rank in range(configuration.mesh.pp)]


def _with_shared(configuration: Configuration, held: list[Held], shared: Held) -> list[Held]:
    """By virtual stage, with what every rank has of a spread vocabulary."""
    firsts = _firsts(configuration) if shared.total else []
    return [each + shared if stage in firsts else each for stage, each in enumerate(held)]


def _collectives_s(setting: Setting, configuration: Configuration, held: Held, layers: int) -> tuple[float, float]:
    """Seconds of one all-gather and of one reduction over all that a stage holds."""
    zero, element = configuration.zero, setting.element_bytes
    gather = _over_data(setting, configuration, held, element, all_gather_s, layers) if zero else 0.0
    collective = reduce_scatter_s if zero else all_reduce_s
    if setting.job.compress == "none":
        reduction = _over_data(setting, configuration, held, _wire_bytes(setting), collective, layers)
    else:
        reduction = _compressed_s(setting, configuration, held, layers)
    link = 0.0
    if configuration.swap_layers:
        link = swap_s(setting, owned(held - of_ends(setting.costs(configuration)), configuration))
    return gather + link, reduction + link


def _compressed_s(setting: Setting, configuration: Configuration, held: Held, layers: int) -> float:
    """Seconds of compressed sums over all that a stage holds: messages, and the three passes that make and read them,
    which are never beside anything here."""
    ranks, rates = shards(configuration), setting.rates
    if ranks == 1:
        return 0.0
    moved_s = held.total * moved_bytes(ranks) / rates.elementwise_bytes_per_s + 3 * layers * rates.launch_s
    return _over_data(setting, configuration, held, MESSAGE_BYTES, _exchange_s, layers) + moved_s


def _exchange_s(group: GroupPaths, message_bytes: float) -> float:
    """Every rank sends the others their parts, and then all the sum of its own."""
    return all_to_all_s(group, message_bytes) + all_gather_s(group, message_bytes)


def _copies_s(setting: Setting, configuration: Configuration, held: Held) -> float:
    """Seconds in which the copies of hybrid sharding add up what each has scattered: once a step."""
    copies, size = configuration.dp_replicate, shards(configuration)
    if copies == 1 or configuration.zero == 0:
        return 0.0
    between = setting.group(configuration.mesh.tp * size, copies)
    return all_reduce_s(between, _wire_bytes(setting) * held.dense / size) * setting.execution.network


def _with_sums(configuration: Configuration, after: list[float], seen: list[Setting], held: list[Held]) -> list[float]:
    """What follows the last backward, by stage, with the sums over copies of experts."""
    if configuration.expert_replicas == 0:
        return after
    sums = [replicas_s(view, configuration, each.expert) for view, each in zip(seen, held, strict=True)]
    return [each + more for each, more in zip(after or [0.0] * len(sums), sums, strict=True)]


def replicas_s(setting: Setting, configuration: Configuration, expert: float) -> float:
    """Seconds in which the copies of experts add up their gradients, after data parallelism has, `expert` parameters
    being all that a rank has of experts: each of two slots of an expert sends the other what ZeRO leaves it, in fp32
    and over the slower links of ep."""
    mesh, replicas = configuration.mesh, configuration.expert_replicas
    experts = max(layer.moe.experts for layer in setting.kinds if layer.moe)
    sent = GRADIENT_BYTES * expert * 2 * replicas / (experts + replicas)
    group = setting.group(mesh.etp, mesh.ep)
    path = group.outer or group.inner
    if path is None:
        return 0.0
    shared = mesh.edp if configuration.zero else 1
    return point_to_point_s(path, sent / shared) * setting.execution.network


def _wire_bytes(setting: Setting) -> int:
    """Of a gradient on its way: whole in fp32, else as the framework sends it, or else accumulates it."""
    framework = setting.framework
    if setting.job.precision == "fp32":
        return GRADIENT_BYTES
    return framework.wire_bytes or min(GRADIENT_BYTES, framework.keeps.gradient_bytes)


def _late_s(configuration: Configuration, reduce_s: list[float]) -> tuple[float, ...]:
    """Seconds of the reductions of each pipeline rank, where they follow its last backward."""
    return tuple(
        sum(reduce_s[stage] for stage in configuration.stages_of(rank)) for rank in range(configuration.mesh.pp)
    )


def _regather_s(setting: Setting, configuration: Configuration) -> tuple[float, ...]:
    """Seconds of one all-gather of each rank's updated parameters, after the optimizer."""
    costs, tied = setting.at(configuration, 0).costs(configuration), setting.architecture.tied_embeddings
    return tuple(
        _over_data(setting.stage_at(configuration, rank), configuration, held, setting.element_bytes, all_gather_s, 1)
        for rank in range(configuration.mesh.pp)
        for held in [rank_parameters(costs, configuration, rank, tied)]
    )


def _over_data(
    setting: Setting, configuration: Configuration, held: Held, each: float, collective: Collective, layers: int
) -> float:
    """Seconds of the collectives over all gradients or weights of a stage, `each` bytes a parameter. There is one a
    layer (FSDP2's units, Megatron's buckets): each pays the latency of its group."""
    mesh = configuration.mesh
    total = layers * collective(setting.group(mesh.tp, shards(configuration)), each * held.dense / layers)
    if held.expert:
        total += layers * collective(setting.group(mesh.ep * mesh.etp, mesh.edp), each * held.expert / layers)
    return total * setting.execution.network


def _after_s(
    setting: Setting, configuration: Configuration, held: list[Held]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of the optimizer, and of what it takes longer on the host, by pipeline rank."""
    seen = [setting.at(configuration, rank) for rank in range(configuration.mesh.pp)]
    all_of_it = [
        sum((held[stage] for stage in configuration.stages_of(rank)), Held(0.0))
        for rank in range(configuration.mesh.pp)
    ]
    states = [owned(each, configuration) for each in all_of_it]
    if setting.job.galore is not None:
        return tuple(_galore_s(*each, configuration) for each in zip(seen, all_of_it, strict=True)), (0.0,) * len(seen)
    if configuration.swap_layers:
        ends = owned(of_ends(seen[0].costs(configuration)), configuration)
        return (_adamw_s(seen[0], ends),), (adamw_s(seen[0], states[0] - ends),)
    asked = list(zip(seen, states, strict=True))  # of few different sizes
    known = {each: _updates_s(each[0], configuration, each[1]) for each in set(asked)}
    return tuple(known[each][0] for each in asked), tuple(known[each][1] for each in asked)


def _updates_s(setting: Setting, configuration: Configuration, states: float) -> tuple[float, float]:
    """Seconds of the optimizer, and of what it takes longer on the host, of so many states."""
    own_s = _adamw_s(setting, (1 - configuration.offload) * states, _is_sharded(configuration))
    return own_s, update_s(setting, configuration, configuration.offload * states, own_s)


def _adamw_s(setting: Setting, parameters: float, sharded: bool = True) -> float:
    rates = setting.rates
    tail_s = setting.measured and setting.measured.tail_s(sharded, parameters)
    measured = tail_s or (optimizer_s(rates, parameters) if setting.job.optimizer_states == "fp32" else None)
    if measured:
        return measured + setting.execution.step_s
    if rates.declared is not None:
        own_s = _traffic_bytes(setting, rates.declared) * parameters / rates.declared_bytes_per_s
        return own_s + rates.launch_s + setting.execution.step_s
    less = 2 * 2 * (STATE_BYTES["fp32"] - STATE_BYTES[setting.job.optimizer_states])  # both moments, both ways
    traffic = (ADAMW_BYTES[setting.job.precision] - less) * parameters
    return traffic / rates.elementwise_bytes_per_s + rates.launch_s + setting.execution.step_s


def _is_sharded(configuration: Configuration) -> bool:
    """Whether parameters are parts of tensors that others hold the rest of."""
    return configuration.zero > 0 or configuration.mesh.tp > 1


def _traffic_bytes(setting: Setting, declared: Declared) -> float:
    """Of a parameter, with what is written of it in the precision of compute where that is another."""
    written = ADAMW_BYTES[setting.job.precision] - ADAMW_BYTES["fp32"]
    return adamw_bytes(declared, setting.job.optimizer_states) + written


def _galore_s(setting: Setting, held: Held, configuration: Configuration) -> float:
    """Seconds of GaLore on a rank: of what it projects, whose gradients ZeRO 1 has to gather, and of the rest, which
    AdamW steps."""
    job, within = setting.job, held.projected or NOTHING
    assert job.galore is not None
    rest = owned(Held(held.dense - within.parameters, held.expert), configuration)
    flops_per_s = setting.device.peak_flops.get("fp32", setting.rates.peak_flops)
    own_s = within.seconds(job.galore, setting.rates.declared_bytes_per_s, flops_per_s)
    if configuration.zero:
        layers = max(1, len(setting.architecture.layers) // configuration.mesh.pp)
        own_s += _over_data(setting, configuration, Held(within.parameters), GRADIENT_BYTES, all_gather_s, layers)
    return own_s + _adamw_s(setting, rest)


def _tied_s(setting: Setting, configuration: Configuration) -> float:
    """First and last stage sum the gradients of a shared embedding (Megatron's embedding group)."""
    mesh = configuration.mesh
    if configuration.spread_vocabulary:
        return 0.0
    if not setting.architecture.tied_embeddings or configuration.holds_last_stage(configuration.rank_of(0)):
        return 0.0
    path = setting.hop(mesh.dp * mesh.cp * mesh.tp, mesh.pp)
    costs = setting.at(configuration, 0).costs(configuration)
    return 4 * costs.embedding.held.total / path.bandwidth_bytes_per_s + 2 * path.latency_s


def layer_collectives_s(setting: Setting, configuration: Configuration, held: Held) -> tuple[float, float]:
    """Seconds of one all-gather and of one reduction over a layer that holds so many parameters, with what copies of
    a ZeRO group add up beside the backward."""
    gather, reduction = _collectives_s(setting, configuration, held, 1)
    return gather, reduction + (_copies_s(setting, configuration, held) if configuration.zero == 1 else 0.0)


def rank_after_s(setting: Setting, configuration: Configuration, states: float) -> float:
    """Seconds of optimizer and offload on a rank that owns the states of so many parameters."""
    if setting.job.galore is not None:
        return _adamw_s(setting, 0.0)  # at the least: matrices take less than AdamW's
    return sum(_updates_s(setting, configuration, states))
