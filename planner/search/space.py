"""The space: every configuration worth pricing, given the pins.

Free axes take the values that practice uses (below); pinned axes take the pinned value, legal or not, so that a
contradiction can be reported. Stage splits are balanced later, when a configuration turns out legal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

from ...clusters.part import part_sizes
from ..configuration import Configuration, Mesh, Recompute, ScheduleName
from ..cost.setting import Setting
from ..pins import Pins
from ..schedule.builder import Builder
from ..schedule.name import CUSTOM
from ..schedule.table import custom, table
from ..sequence import local_tokens
from .context import choices
from .partition import even_split

MICROBATCHES = (1, 2, 4, 8, 16)
CHUNKS = (1, 2, 3, 4, 5, 6, 7, 8)
MAX_STAGES = 128
TOKENS_PER_CP_RANK = 8192
"""Context parallelism is tried while each rank keeps at least so many tokens of a sequence (Megatron-Core's guideline:
from 8k tokens on)."""


def candidates(setting: Setting, pins: Pins) -> Iterator[Configuration]:
    """All configurations to consider, in a fixed order; not all are legal."""
    for world in worlds(setting):
        for mesh in meshes(setting, pins, world):
            for microbatch in _microbatches(setting, pins, mesh):
                yield from _recipes(setting, pins, mesh, microbatch)


def worlds(setting: Setting) -> list[int]:
    """Numbers of devices: all, or those of some whole nodes besides when fewer may be used."""
    devices = setting.num_devices
    if setting.every_device:
        return [devices]
    return [devices, *(size for size in reversed(part_sizes(setting.cluster)) if size < devices)]


def meshes(setting: Setting, pins: Pins, world: int) -> Iterator[Mesh]:
    """Degrees of parallelism whose product is the world (where pins allow it)."""
    for tp in _tp(setting, pins, world):
        for cp in _cp(setting, pins, world // tp):
            for pp in _pp(setting, pins, max(1, world // (tp * cp))):
                dp = pins.dp or max(1, world // (tp * cp * pp))
                for etp in _etp(setting, pins, tp):
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
    return [cp for cp in (1 << power for power in range(most.bit_length())) if ranks % cp == 0]


def _pp(setting: Setting, pins: Pins, ranks: int) -> list[int]:
    if pins.pp:
        return [pins.pp]
    most = min(MAX_STAGES, len(setting.architecture.layers))
    return [pp for pp in divisors(ranks) if pp <= most and pins.dp in (None, ranks // pp)] or [1]


def _etp(setting: Setting, pins: Pins, tp: int) -> list[int]:
    if pins.etp or not setting.has_experts:
        return [pins.etp or 1]
    return sorted({1, tp})


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
    return [size for size in MICROBATCHES if sequences % size == 0]


def _recipes(setting: Setting, pins: Pins, mesh: Mesh, microbatch: int) -> Iterator[Configuration]:
    """Schedule, ZeRO stage and recomputation over one mesh."""
    count = max(pins.shares) if pins.shares else max(1, setting.job.global_batch // (mesh.dp * microbatch))
    layers = len(setting.architecture.layers)
    sp = _sp(setting, pins, mesh)
    chunks = _logits_chunks(setting, pins, mesh, microbatch, sp=sp)
    contexts = choices(setting, pins, mesh, microbatch, sp=sp)
    for schedule, vpp in _schedules(setting, pins, mesh, count):
        for zero, copies in _shardings(setting, pins, mesh):
            for recompute, choice in product(recomputations(pins), contexts):
                yield Configuration(
                    mesh=mesh,
                    stage_layers=even_split(layers, _stages(pins, mesh.pp * vpp)),
                    microbatch=microbatch,
                    microbatches=count,
                    schedule=schedule,
                    vpp=vpp,
                    in_flight=pins.in_flight or (),
                    actions=pins.actions or (),
                    zero=zero,
                    sp=sp,
                    recompute=(recompute,) * mesh.pp,
                    **{**pins.levers(), **choice._asdict(), "dp_replicate": copies, "logits_chunks": chunks},
                )


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
    """ZeRO stages and copies of a ZeRO group. Copies inside of one fast domain are tried where ZeRO 2 or 3 would else
    cross domains in every microbatch; ZeRO 1 sends as much over the network with and without."""
    for zero in _zero(pins, mesh):
        yield zero, pins.dp_replicate or 1
        copies = mesh.dp * mesh.cp * mesh.tp // setting.domain_devices
        if pins.dp_replicate is None and zero > 1 and copies > 1 and mesh.dp % copies == 0:
            yield zero, copies


BINDING, CHUNK_TOKENS = 1 / 8, 2048


def _logits_chunks(setting: Setting, pins: Pins, mesh: Mesh, microbatch: int, *, sp: bool) -> int:
    """As few as keep the logits of a microbatch below an eighth of the device, of 2048 tokens or more: each adds up a
    gradient of the whole output projection."""
    if pins.logits_chunks or not setting.framework.chunks_loss:
        return pins.logits_chunks or 1
    tokens = microbatch * local_tokens(setting.job.seq_len, mesh.cp, mesh.tp if sp else 1)
    logits = setting.framework.keeps.logit_bytes * tokens * setting.architecture.vocab / mesh.tp
    wanted = logits / (BINDING * setting.memory_limit_bytes)
    return max(1, min(1 << max(0, math.ceil(math.log2(wanted))), tokens // CHUNK_TOKENS))


def _zero(pins: Pins, mesh: Mesh) -> list[int]:
    if pins.zero is not None:
        return [pins.zero]
    if mesh.dp * mesh.cp == 1:
        return [0]
    return [0, 1] if mesh.pp > 1 else [0, 1, 2, 3]


def recomputations(pins: Pins) -> tuple[Recompute, ...]:
    """Selective recomputation is only priced when pinned: with fused attention it saves next to nothing."""
    if pins.recompute_operations and not pins.recompute:
        return ("selective",)
    return (pins.recompute,) if pins.recompute else ("none", "full")
