"""Shards: what one rank holds of a tensor that may be spread over several."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor | None) -> Tensor:
    """What this rank holds of a tensor that is there; gradients go through."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def held(tensor: Tensor) -> Tensor:
    """The same memory, outside of autograd: writing to it changes the tensor."""
    return local(tensor.detach())


def views(flat: Tensor, sizes: Iterable[torch.Size]) -> list[Tensor]:
    """`flat` [at least so many elements] cut into tensors of these sizes."""
    found, start = [], 0
    for size in sizes:
        found.append(flat[start : start + size.numel()].view(size))
        start += size.numel()
    return found
