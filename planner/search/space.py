"""The space: every configuration worth pricing, given the pins, as a tree: meshes, under each the ways to share out one
microbatch, under each of these recipes (schedule, ZeRO, copies).

Free axes take the values below; pinned axes take the pinned value, legal or not, so that a contradiction can be
reported. How layers are split over stages and what each rank recomputes is found below a recipe (`leaf.py`).
docs/plan.md says what the space is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from ...clusters.part import part_sizes, rounded
from ...clusters.schema import Exceptions
from ..configuration import Configuration, Mesh, Module, Recompute, ScheduleName
from ..cost.setting import Setting
from ..pins import Pins
from ..schedule.builder import Builder
from ..schedule.name import CUSTOM
from ..schedule.table import custom, table
from ..sequence import local_tokens
from . import dispatch
from .context import choices
from .partition import even_split

LARGEST_MICROBATCH = 16
CHUNKS = (1, 2, 3, 4, 5, 6, 7, 8)
MAX_STAGES = 128
TOKENS_PER_CP_RANK = 8192
"""Context parallelism is tried while each rank keeps at least so many tokens of a sequence (Megatron-Core's guideline:
from 8k tokens on)."""


def candidates(setting: Setting, pins: Pins) -> Iterator[Configuration]:
    """All recipes in a fixed order, with even stages, all ranks recomputing alike, and the loss in chunks where that is
    worthwhile; not all are legal."""
    for shared in listed_shares(setting, pins):
        yield from below(setting, pins, shared)


def listed_shares(setting: Setting, pins: Pins) -> Iterator[Configuration]:
    """Those of `shares` that are listed: microbatches that are powers of two."""
    return shares(setting, pins, every=pins.microbatch is not None or bool(pins.actions))


def below(setting: Setting, pins: Pins, shared: Configuration) -> Iterator[Configuration]:
    """The candidates of one share."""
    for recipe in listed_recipes(setting, pins, shared):
        yield from recomputed(setting, pins, recipe)


def listed_recipes(setting: Setting, pins: Pins, shared: Configuration) -> Iterator[Configuration]:
    """Those of `recipes` that are listed."""
    chunks = logits_chunks(setting, pins, shared)
    for recipe in recipes(setting, pins, shared):
        if recipe.zero != 1 or recipe.dp_replicate == 1 or pins.dp_replicate is not None:
            yield replace(recipe, logits_chunks=chunks)


def recomputed(setting: Setting, pins: Pins, recipe: Configuration) -> Iterator[Configuration]:
    """A recipe with what all its ranks recompute, the fastest first: nothing, operations of experts' layers that cost
    little, everything; or what is pinned."""
    light = light_operations(setting, pins)
    for choice in recomputations(pins):
        everywhere = replace(recipe, recompute=(choice,) * recipe.mesh.pp)
        if light and choice == "selective":
            yield replace(everywhere, recompute_operations=light)
        elif choice != "selective" or len(recomputations(pins)) == 1:
            yield everywhere


def light_operations(setting: Setting, pins: Pins) -> tuple[Module, ...]:
    """What a list gives up selectively where a model has experts and nothing is pinned: norms and the activation of
    experts, which DeepSeek-V3 repeats with the projections from its latents (arXiv:2412.19437, section 3.2.3)."""
    if not setting.has_experts or not setting.framework.experts.planned or pins.recompute or pins.recompute_operations:
        return ()
    latent = any(layer.attention.latent is not None for layer in setting.kinds)
    return ("layernorm", "moe_act", "mla_up_proj") if latent else ("layernorm", "moe_act")


def shares(setting: Setting, pins: Pins, every: bool = True) -> Iterator[Configuration]:
    """Every mesh and way to share out a microbatch over it, as the first recipe below it; of every size, or of those
    that are powers of two."""
    known: dispatch.Known = {}
    for world in worlds(setting):
        for mesh in meshes(setting, pins, world):
            sizes = _microbatches(setting, pins, mesh)
            for microbatch in sizes if every else [size for size in sizes if size.bit_count() == 1]:
                for shared in _shares(setting, pins, mesh, microbatch):
                    for choice in dispatch.choices(setting, pins, shared, known):
                        yield replace(shared, **choice._asdict())


def worlds(setting: Setting) -> list[int]:
    """Numbers of devices: all, or those of some whole nodes besides when fewer may be used."""
    devices = setting.num_devices
    if setting.every_device:
        return [devices]
    return [devices, *(size for size in reversed(_whole_nodes(setting)) if size < devices)]


def _whole_nodes(setting: Setting) -> list[int]:
    """Numbers of devices that whole nodes make as ranks fill them, which need not be in the order of the file."""
    cluster, topology = setting.cluster, setting.topology
    if cluster.exceptions == Exceptions():
        groups = tuple(cluster.node_groups[site] for site in topology.sites)
        return part_sizes(cluster.model_copy(update={"node_groups": groups}))
    places = [topology.place(rank) for rank in range(setting.num_devices)]
    nodes = [(place.group, place.node) for place in places]
    ends = [rank for rank, (node, after) in enumerate(pairwise(nodes), 1) if node != after] + [len(nodes)]
    return [ends[count - 1] for count in rounded(len(ends))]


def meshes(setting: Setting, pins: Pins, world: int) -> Iterator[Mesh]:
    """Degrees of parallelism whose product is the world (where pins allow it)."""
    for tp in _tp(setting, pins, world):
        for cp in _cp(setting, pins, max(1, world // tp)):
            for pp in _pp(setting, pins, max(1, world // (tp * cp))):
                dp = pins.dp or max(1, world // (tp * cp * pp))
                for etp in _etp(setting, pins, dp * cp * tp):
                    for ep in _ep(setting, pins, dp * cp * tp, etp):
                        yield Mesh(pp=pp, dp=dp, cp=cp, tp=tp, ep=ep, etp=etp)


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _tp(setting: Setting, pins: Pins, world: int) -> list[int]:
    """Inside one fast domain: across it, two collectives a layer on the network are never worth it."""
    if pins.tp:
        return [pins.tp]
    heads = math.gcd(*(layer.attention.heads for layer in setting.kinds))
    return [tp for tp in divisors(math.gcd(heads, world)) if setting.domain_devices % tp == 0]


def _cp(setting: Setting, pins: Pins, ranks: int) -> list[int]:
    if pins.cp:
        return [pins.cp]
    most = max(1, setting.job.seq_len // TOKENS_PER_CP_RANK)
    return [cp for cp in divisors(ranks) if cp <= most]


def _pp(setting: Setting, pins: Pins, ranks: int) -> list[int]:
    if pins.pp:
        return [pins.pp]
    most = min(MAX_STAGES, len(setting.architecture.layers))
    return [pp for pp in divisors(ranks) if pp <= most and pins.dp in (None, ranks // pp)] or [1]


def _etp(setting: Setting, pins: Pins, ranks: int) -> list[int]:
    """Inside one fast domain, as tp."""
    if pins.etp or not setting.has_experts:
        return [pins.etp or 1]
    width = math.gcd(*(layer.moe.expert.width for layer in setting.kinds if layer.moe))
    return [etp for etp in divisors(math.gcd(width, ranks)) if setting.domain_devices % etp == 0]


def _ep(setting: Setting, pins: Pins, ranks: int, etp: int) -> list[int]:
    if pins.ep or not setting.has_experts:
        return [pins.ep or 1]
    experts = math.gcd(*(layer.moe.experts for layer in setting.kinds if layer.moe))
    return divisors(math.gcd(experts, max(1, ranks // etp)))


def _microbatches(setting: Setting, pins: Pins, mesh: Mesh) -> list[int]:
    if pins.microbatch:
        return [pins.microbatch]
    if pins.shares:
        return [max(1, setting.job.global_batch // sum(pins.shares))]
    sequences = max(1, setting.job.global_batch // mesh.dp)
    if pins.actions:
        size, left = divmod(sequences, custom(pins.actions).microbatches)
        return [1 if left else max(1, size)]
    return [size for size in range(1, LARGEST_MICROBATCH + 1) if sequences % size == 0]


def _shares(setting: Setting, pins: Pins, mesh: Mesh, microbatch: int) -> Iterator[Configuration]:
    """Algorithms of context parallelism; sequence parallelism follows a rule."""
    count = max(pins.shares) if pins.shares else max(1, setting.job.global_batch // (mesh.dp * microbatch))
    sp = _sp(setting, pins, mesh)
    for choice in choices(setting, pins, mesh, microbatch, sp=sp):
        levers = {**pins.levers(), **choice._asdict(), "logits_chunks": pins.logits_chunks or 1}
        schedule, vpp = _schedules(setting, pins, mesh, count)[0]
        zero, copies = next(iter(_shardings(setting, pins, mesh)))
        yield Configuration(
            mesh=mesh,
            stage_layers=even_split(len(setting.architecture.layers), _stages(pins, mesh.pp * vpp)),
            microbatch=microbatch,
            microbatches=count,
            schedule=schedule,
            vpp=vpp,
            in_flight=pins.in_flight or (),
            actions=pins.actions or (),
            zero=zero,
            sp=sp,
            recompute=(recomputations(pins)[0],) * mesh.pp,
            **{**levers, "dp_replicate": copies},
        )


def recipes(setting: Setting, pins: Pins, shared: Configuration) -> Iterator[Configuration]:
    """Schedules and ZeRO stages, with copies, of one way to share out a microbatch."""
    mesh, layers = shared.mesh, len(setting.architecture.layers)
    for schedule, vpp in _recipe_schedules(setting, pins, shared):
        split = even_split(layers, _stages(pins, mesh.pp * vpp))
        for zero, copies in _shardings(setting, pins, mesh):
            yield replace(shared, schedule=schedule, vpp=vpp, stage_layers=split, zero=zero, dp_replicate=copies)


def count_recipes(setting: Setting, pins: Pins, shared: Configuration) -> int:
    """How many `recipes` would list."""
    schedules = _recipe_schedules(setting, pins, shared)
    return len(schedules) * len(list(_shardings(setting, pins, shared.mesh)))


SPREAD_STAGES = 32
"""Virtual stages of the longest interleaved pipeline whose vocabulary is spread without being asked for."""


def _recipe_schedules(setting: Setting, pins: Pins, shared: Configuration) -> list[tuple[ScheduleName, int]]:
    """With a spread vocabulary 1F1B, ZB-V, in which ranks wait least for a pass, and short interleaved pipelines: lists
    of their own are slow to make."""
    found, ranks = _schedules(setting, pins, shared.mesh, shared.microbatches), shared.mesh.pp
    if not shared.spread_vocabulary or pins.spread_vocabulary is not None:
        return found
    short = [(name, vpp) for name, vpp in found if name == "interleaved" and ranks * vpp <= SPREAD_STAGES]
    return [(name, vpp) for name, vpp in found if name in ("1f1b", "zb-v")] + short


def _stages(pins: Pins, stages: int) -> int:
    """Virtual stages: as many as a schedule file lists."""
    return custom(pins.actions).stages if pins.actions else stages


def _sp(setting: Setting, pins: Pins, mesh: Mesh) -> bool:
    """Wherever legal: the same volume of communication, less memory and less element-wise work."""
    if pins.sp is not None:
        return pins.sp
    return mesh.tp > 1 and (mesh.cp > 1 or setting.job.seq_len % mesh.tp == 0)


def _schedules(setting: Setting, pins: Pins, mesh: Mesh, count: int) -> list[tuple[ScheduleName, int]]:
    """Schedules with their virtual stages a rank: those that are worth a try, or what is pinned."""
    if pins.schedule == CUSTOM:
        return [(CUSTOM, pins.vpp or 1)]
    names = (pins.schedule,) if pins.schedule else _searched(setting, mesh)
    found = [(name, chunks) for name in names for chunks in _chunks(setting, pins, mesh, count, table()[name])]
    if found:
        return found
    name = pins.schedule or ("interleaved" if pins.vpp and pins.vpp > 1 else "1f1b")
    return [(name, pins.vpp or table()[name].chunks.start)]


def _searched(setting: Setting, mesh: Mesh) -> list[ScheduleName]:
    """1F1B; in a pipeline the others too, halves of backwards where the framework has them."""
    names = [name for name, builder in table().items() if builder.searched]
    if mesh.pp == 1:
        return ["1f1b"]
    return [name for name in names if setting.framework.splits_backward or not table()[name].splits]


def _chunks(setting: Setting, pins: Pins, mesh: Mesh, count: int, builder: Builder) -> list[int]:
    """Virtual stages a rank that a schedule can have."""
    if builder.whole_groups and count % mesh.pp:
        return []
    fitting = mesh.pp > 1 or builder.chunks.start == 1
    wanted = (pins.vpp,) if pins.vpp else CHUNKS
    most = max(mesh.pp, len(setting.architecture.layers)) if not pins.vpp else pins.vpp * mesh.pp
    return [chunks for chunks in wanted if fitting and chunks in builder.chunks and mesh.pp * chunks <= most]


def _shardings(setting: Setting, pins: Pins, mesh: Mesh) -> Iterator[tuple[int, int]]:
    """ZeRO stages and copies of a ZeRO group: none, or as many as leave each group in one fast domain."""
    for zero in _zero(setting, pins, mesh):
        yield zero, pins.dp_replicate or 1
        copies = mesh.dp * mesh.cp * mesh.tp // setting.domain_devices
        if pins.dp_replicate is None and zero and 1 < copies < mesh.dp * mesh.cp and mesh.dp % copies == 0:
            yield zero, copies


CHUNK_TOKENS = 2048
BINDING = 1 / 8


def logits_chunks(setting: Setting, pins: Pins, shared: Configuration) -> int:
    """As few as keep the logits of a microbatch below an eighth of the device, of 2048 tokens or more: each adds up a
    gradient of the whole output projection."""
    if pins.logits_chunks or not setting.framework.chunks_loss:
        return pins.logits_chunks or 1
    mesh = shared.mesh
    tokens = shared.microbatch * local_tokens(setting.job.seq_len, mesh.cp, mesh.tp if shared.sp else 1)
    logits = setting.framework.keeps.logit_bytes * tokens * setting.architecture.vocab / mesh.tp
    wanted = logits / (BINDING * setting.memory_limit_bytes)
    return max(1, min(1 << max(0, math.ceil(math.log2(wanted))), tokens // CHUNK_TOKENS))


OFFLOADS = (0.5, 1.0)
"""Fractions of the optimizer states that are tried off the device where memory binds."""


def offloads(pins: Pins, recipe: Configuration) -> tuple[float, ...]:
    """A recipe's own fraction, and those that are tried beside it."""
    return (recipe.offload, *OFFLOADS) if pins.offload is None and not pins.swap_layers else (recipe.offload,)


def reliefs(setting: Setting, pins: Pins, recipe: Configuration) -> Iterator[Configuration]:
    """The same recipe with less memory: the loss in chunks, where that is worthwhile, and a part of the optimizer
    states on the host."""
    chunks = pins.logits_chunks or logits_chunks(setting, pins, recipe)
    for fraction in offloads(pins, recipe):
        if (chunks, fraction) != (recipe.logits_chunks, recipe.offload):
            yield replace(recipe, logits_chunks=chunks, offload=fraction)


def _zero(setting: Setting, pins: Pins, mesh: Mesh) -> list[int]:
    if pins.zero is not None:
        return [pins.zero]
    if mesh.dp * mesh.cp == 1 or setting.job.compress != "none":
        return [0]
    return [zero for zero in setting.framework.zero if zero < 2 or mesh.pp == 1]


def lightest(setting: Setting, pins: Pins, shared: Configuration) -> tuple[Configuration, ...]:
    """Recipes of which in one at least a rank without ends needs no more than any rank with as many layers does in any
    recipe of a share: it holds one microbatch at a time, and what can be sharded or leave the device is."""
    pp = max(3, shared.mesh.pp)  # of which rank 1 has no ends
    alone = replace(
        shared,
        mesh=replace(shared.mesh, pp=pp),
        stage_layers=(0,) * pp,
        microbatches=1,
        schedule="1f1b",
        vpp=1,
        in_flight=(),
        actions=(),
    )
    return relieved(setting, pins, alone)


def relieved(setting: Setting, pins: Pins, recipe: Configuration) -> tuple[Configuration, ...]:
    """Of all with the same schedule, in a pipeline, the recipes in one of which each rank needs least memory: what can
    be sharded or leave the device is. In fp32 a shard of the weights stands beside them, which may be more than what is
    saved; and a loss in chunks may need less, or more, as it keeps gradients of the projection."""
    stages, copies = _zero(setting, pins, recipe.mesh), pins.dp_replicate or 1
    zeros = stages if setting.job.precision == "fp32" else [max(stages)]
    light = replace(recipe, dp_replicate=copies, offload=max(offloads(pins, recipe)))
    return tuple(each for zero in zeros for each in in_chunks(setting, pins, replace(light, zero=zero)))


def in_chunks(setting: Setting, pins: Pins, recipe: Configuration) -> tuple[Configuration, ...]:
    """A recipe as it is, and where that is worthwhile with its loss in chunks."""
    chunks = logits_chunks(setting, pins, recipe)
    return (recipe,) if chunks == recipe.logits_chunks else (recipe, replace(recipe, logits_chunks=chunks))


def recomputations(pins: Pins) -> tuple[Recompute, ...]:
    """What a rank may do, the fastest first."""
    if pins.recompute_operations and not pins.recompute:
        return ("selective",)
    return (pins.recompute,) if pins.recompute else ("none", "selective", "full")
