"""Subgroups: what of the optimizer is updated together; the host works on one while the link carries its neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

SUBGROUP_ELEMENTS = 1 << 24
"""64 MiB of each state: long enough that the link is busy, short enough that a few buffers are little memory."""


@dataclass(frozen=True, slots=True)
class Subgroup:
    """Some parameters of one group of options (learning rate, decay) whose states live on the host."""

    options: dict[str, Any]  # the optimizer's own group: what changes there counts here
    parameters: tuple[nn.Parameter, ...]

    @property
    def sizes(self) -> list[torch.Size]:
        """Of what this rank holds."""
        return [local(parameter).shape for parameter in self.parameters]

    @property
    def elements(self) -> int:
        return sum(size.numel() for size in self.sizes)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; writing to it changes the tensor."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def views(flat: Tensor, sizes: Iterable[torch.Size]) -> list[Tensor]:
    """`flat` [at least so many elements] cut into tensors of these sizes."""
    found, start = [], 0
    for size in sizes:
        found.append(flat[start : start + size.numel()].view(size))
        start += size.numel()
    return found


def on_its_own(view: Tensor) -> Tensor:
    """The same host memory as a tensor that begins where its storage begins: who copies a DTensor takes one that does
    not for a tensor with memory of its own."""
    return torch.from_numpy(view.numpy())


def offloaded(parameters: list[nn.Parameter], fraction: float) -> set[nn.Parameter]:
    """Which parameters' states live on the host: spread evenly over the list, never less than `fraction` of the
    elements, and more by less than one parameter."""
    chosen: set[nn.Parameter] = set()
    total = taken = 0
    for parameter in parameters:
        size = local(parameter).numel()
        total += size
        if taken < fraction * total:
            chosen.add(parameter)
            taken += size
    return chosen


def subgroups(options: dict[str, Any], parameters: list[nn.Parameter], most: int = SUBGROUP_ELEMENTS) -> list[Subgroup]:
    """Parameters of one group of options in order, at most so many elements together or a single parameter."""
    found: list[list[nn.Parameter]] = []
    size = most
    for parameter in parameters:
        own = local(parameter).numel()
        if size + own > most:
            found.append([])
            size = 0
        found[-1].append(parameter)
        size += own
    return [Subgroup(options, tuple(each)) for each in found]
