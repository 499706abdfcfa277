"""Places: which elements of whole parameters a rank holds, for whatever must not depend on how they are spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from ..kernels.adamw import Place
from . import compat
from .shards import held
from .slots import Orders


class Places:
    """The layout of a model's parameters, as `kernels/optimizer.py` asks for it. `orders`: of stacked experts, whose
    elements are numbered by expert and not by slot. `data`: the ranks that dense parameters are replicated or sharded
    over, where there are several; of two axes, copies of a group and its shards, the last varies fastest."""

    def __init__(self, orders: Orders, data: DeviceMesh | None = None):
        self._orders, self._data = orders, data

    @property
    def replicas(self) -> int:
        """Ranks that step a dense parameter together."""
        return 1 if self._data is None else self._data.size()

    @property
    def replica(self) -> int:
        """Which of them this one is."""
        return 0 if self._data is None else _rank_in(self._data)

    def share(self, tensor: Tensor, replica: int) -> None:
        """Give all of them what `replica` has: inside of each copy of a group, then from its copy to the others."""
        for group, source in [] if self._data is None else _routes(self._data, replica):
            dist.broadcast(tensor, group=group, group_src=source)

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


def _rank_in(mesh: DeviceMesh) -> int:
    """This rank's number among those of a mesh."""
    coordinate = mesh.get_coordinate()
    assert coordinate is not None
    number = 0
    for at, size in zip(coordinate, mesh.shape, strict=True):
        number = number * size + at
    return number


def _routes(mesh: DeviceMesh, source: int) -> Iterator[tuple[dist.ProcessGroup, int]]:
    """From rank `source` of a mesh to all others, axis by axis: this rank's group, and who sends in it. Groups that the
    source is not in send along the inner axis what the outer one then overwrites."""
    for dim in reversed(range(mesh.ndim)):
        source, place = divmod(source, mesh.shape[dim])
        yield mesh.get_group(dim), place


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
