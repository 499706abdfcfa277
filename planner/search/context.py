"""Which algorithms of context parallelism are worth pricing: those that no other beats in everything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from ..configuration import CpAlgorithm, Mesh
from ..cost.context import blocks_of, exposed, passing_bytes
from ..cost.core import core_s
from ..cost.setting import Setting
from ..cost.sharding import Sharding
from ..pins import Pins


class Choice(NamedTuple):
    """An algorithm and, in usp, how many ranks share out heads."""

    cp_algorithm: CpAlgorithm
    cp_ulysses: int = 1


def choices(setting: Setting, pins: Pins, mesh: Mesh, microbatch: int, *, sp: bool) -> list[Choice]:
    """What is pinned, or else those of the framework that have enough heads and are not beaten by another of them, in
    any layer, in exposed time and in memory both: everything else about a plan is the same with all of them."""
    if mesh.cp == 1 or pins.cp_algorithm not in (None, "usp"):
        return [Choice(pins.cp_algorithm or "ring", pins.cp_ulysses or 1)]
    if pins.cp_algorithm is None and pins.cp_ulysses is None:
        found = list(_possible(setting, mesh))
    else:
        found = [
            Choice("usp", ulysses) for ulysses in ([pins.cp_ulysses] if pins.cp_ulysses else _shared(setting, mesh))
        ]
    if len(found) < 2 or mesh.world > setting.num_devices:  # illegal: told by the first of them
        return found[:1] or [Choice("usp", mesh.cp)]
    sharding = Sharding(tp=mesh.tp, sp=sp, cp=mesh.cp, microbatch=microbatch)
    measured = [_measures(setting, replace(sharding, **choice._asdict())) for choice in found]
    return [choice for place, choice in enumerate(found) if not _beaten(measured, place)]


def _possible(setting: Setting, mesh: Mesh) -> Iterator[Choice]:
    for name in setting.framework.context:
        if name == "usp":
            yield from (Choice(name, ulysses) for ulysses in _shared(setting, mesh))
        elif name != "ulysses" or _heads(setting, mesh) % mesh.cp == 0:
            yield Choice(name)


def _shared(setting: Setting, mesh: Mesh) -> list[int]:
    """Degrees over heads that leave rings."""
    heads = _heads(setting, mesh)
    return [n for n in range(2, mesh.cp) if mesh.cp % n == 0 and heads % n == 0]


def _heads(setting: Setting, mesh: Mesh) -> int:
    """Heads of one tensor-parallel rank that can be shared out further."""
    heads = math.gcd(*(layer.attention.heads for layer in setting.kinds))
    return heads // mesh.tp if heads % mesh.tp == 0 else 1


def _measures(setting: Setting, sharding: Sharding) -> list[float]:
    """Seconds and bytes of all kinds of layers, of which less is better."""
    found: list[float] = []
    seq_len, links = setting.job.seq_len, setting.groups(sharding).cp
    for layer in setting.kinds:
        blocks = blocks_of(layer.attention, sharding, seq_len, setting.element_bytes)
        beside = core_s(layer.attention, sharding, seq_len, setting.rates)
        seconds = exposed(sharding.cp_algorithm, blocks, links, beside)
        found += [seconds.forward_s, seconds.backward_s, seconds.again_s]
        found += [passing_bytes(sharding.cp_algorithm, blocks), blocks.copies * blocks.key_value]
    return found


def _beaten(measured: list[list[float]], place: int) -> bool:
    """Another is nowhere worse, and comes earlier or is somewhere better."""
    own = measured[place]
    others = (other for index, other in enumerate(measured) if index < place or other != own)
    return any(all(a <= b for a, b in zip(other, own, strict=True)) for other in others if other is not own)
