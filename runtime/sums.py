"""Sums: 64-bit checksums of a checkpoint's tensors, from the memory that they are saved from to that they are read to.

Hashes of files say that what was written is still there. These say that what was in memory is what was written, and
that what was read, perhaps cut otherwise, is what was saved. Ranks that hold the same part of a tensor must have the
same sum: a difference is silent corruption of memory, of a computation or of a message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import RunError
from ..kernels.checksum import checksum, combined
from . import compat
from .shards import held
from .slots import Order, Orders

Numbers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The checksum of what a rank holds of a tensor of the shape `whole`: `size`, from `begin` on."""

    name: str
    begin: Numbers
    size: Numbers
    whole: Numbers
    sum: int

    @staticmethod
    def read(written: Mapping[str, Any]) -> Part:
        """What JSON made of one."""
        numbers = {key: tuple(written[key]) for key in ("begin", "size", "whole")}
        return Part(name=written["name"], sum=written["sum"], **numbers)


def parts_of(state: Mapping[str, Tensor], orders: Orders) -> list[Part]:
    """Of all tensors of a rank's state. Stacked experts, `orders` by their names, count as experts whatever their slots
    are. One read of every tensor, and one wait for each device."""
    made = [part for name, tensor in state.items() for part in _parts(name, tensor, orders.get(name))]
    by_device: dict[torch.device, list[Tensor]] = {}
    for _, found in made:
        by_device.setdefault(found.device, []).append(found)
    read = {device: iter(torch.stack(sums).tolist()) for device, sums in by_device.items()}
    return [Part(part.name, part.begin, part.size, part.whole, next(read[found.device])) for part, found in made]


def _parts(name: str, tensor: Tensor, order: Order | None) -> list[tuple[Part, Tensor]]:
    """Without the number, which the device still has."""
    begin, size = compat.own_box(tensor)
    own, whole = held(tensor), tuple(tensor.shape)
    if own.numel() == 0:
        return []
    if order is None:
        return [(Part(name, begin, size, whole, 0), checksum(own, begin, whole))]
    whole, one = (len(set(order)), *whole[1:]), (1, *size[1:])
    places = [(slot, (order[begin[0] + slot], *begin[1:])) for slot in range(size[0])]
    return [(Part(name, place, one, whole, 0), checksum(own[slot : slot + 1], place, whole)) for slot, place in places]


def totals(ranks: Sequence[Sequence[Part]]) -> dict[str, int]:
    """The checksum of every tensor, from the parts of all ranks; without those whose parts overlap or leave something
    out. Raises RunError where ranks differ in a part that they both hold."""
    parts: dict[str, dict[tuple[Numbers, Numbers], tuple[int, Part]]] = {}
    for rank, own in enumerate(ranks):
        for part in own:
            _, other = parts.setdefault(part.name, {}).setdefault((part.begin, part.size), (rank, part))
            if other.sum != part.sum:
                _refuse(part, ranks)
    found = {}
    for name, boxes in sorted(parts.items()):
        each = [part for _, part in boxes.values()]
        if sum(math.prod(part.size) for part in each) == math.prod(each[0].whole):
            found[name] = combined([part.sum for part in each])
    return found


def _refuse(part: Part, ranks: Sequence[Sequence[Part]]) -> NoReturn:
    """Name the ranks by what they hold: where most agree, the others are to be looked at."""
    holders: dict[int, list[int]] = {}
    for number, own in enumerate(ranks):
        for each in own:
            if (each.name, each.begin, each.size) == (part.name, part.begin, part.size):
                holders.setdefault(each.sum, []).append(number)
    groups = sorted(holders.values(), key=lambda numbers: (-len(numbers), numbers))
    named = "; ".join(" ".join(map(str, sorted(set(numbers)))) for numbers in groups)
    raise RunError(
        f"replicas of {part.name} differ: {list(part.size)} from {list(part.begin)} on has several values, on ranks "
        f"{named}; memory, a computation or a message was corrupted"
    )


def changed(saved: Mapping[str, int], read: Mapping[str, int]) -> list[str]:
    """Tensors that are not what was saved."""
    return [name for name in sorted(saved.keys() & read.keys()) if saved[name] != read[name]]
