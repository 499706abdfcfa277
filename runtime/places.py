"""Places: which elements of whole parameters a rank holds, for whatever must not depend on how they are spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from torch import Tensor
from torch.distributed.tensor import DTensor

from ..kernels.adamw import Place
from . import compat
from .shards import held
from .slots import Orders


class Places:
    """The layout of a model's parameters, as `kernels/optimizer.py` asks for it. `orders`: of stacked experts, whose
    elements are numbered by expert and not by slot."""

    def __init__(self, orders: Orders):
        self._orders = orders

    def local(self, tensor: Tensor) -> Tensor:
        """What this rank holds."""
        return held(tensor)

    def places(self, parameter: Tensor, name: str) -> Sequence[tuple[slice, Place]]:
        """Which elements of the whole parameter those of `local` are, piece by piece."""
        begin, size = compat.own_box(parameter)
        order = self._orders.get(name)
        if order is None:
            return runs(tuple(parameter.shape), begin, size)
        whole, each = (max(order) + 1, *parameter.shape[1:]), math.prod(size[1:])
        found = []
        for slot in range(size[0]):
            expert = order[begin[0] + slot]
            own = runs(whole, (expert, *begin[1:]), (1, *size[1:]))
            found += [(slice(slot * each + at.start, slot * each + at.stop), place) for at, place in own]
        return found

    def whole(self, tensor: Tensor) -> Tensor:
        """All of it, on every rank that holds a part. Called by all of them."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def own(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """This rank's part of a tensor that is whole here."""
        begin, size = compat.own_box(parameter)
        return whole[tuple(slice(first, first + count) for first, count in zip(begin, size, strict=True))]


def runs(shape: Sequence[int], begin: Sequence[int], size: Sequence[int]) -> list[tuple[slice, Place]]:
    """A box of `size` from `begin` on in a tensor of `shape`: slices of its own elements, and where each is among those
    of the tensor. Trailing dimensions that are whole make one run."""
    if math.prod(size) == 0:
        return []
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    partial = len(shape)
    while partial and size[partial - 1] == shape[partial - 1]:
        partial -= 1
    first = sum(at * stride for at, stride in zip(begin, strides, strict=True))
    if partial < 2:
        return [(slice(0, math.prod(size)), Place(first))]
    inner, pitched = partial - 1, partial - 2
    width, rows = size[inner] * strides[inner], size[pitched]
    found = []
    for number, outer in enumerate(product(*map(range, size[:pitched]))):
        ahead = sum(at * stride for at, stride in zip(outer, strides, strict=False))
        at = slice(number * rows * width, (number + 1) * rows * width)
        found.append((at, Place(first + ahead, width, strides[pitched])))
    return found
