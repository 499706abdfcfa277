"""Collectives inside of autograd, as layers call them, each with the parallel dimension that it is of.

In a sampled step (`components.py`) they are the same collectives in the same order, but waited for at once and in
spans, forward and backward: what PyTorch's autograd formulas wait for in their backward cannot be seen from outside.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import compat
from .components import sampling, span


def all_gather(x: Tensor, dim: int, group: dist.ProcessGroup, kind: str) -> Tensor:
    """Concatenate over the ranks along `dim`; its gradient is `reduce_scatter`."""
    return _timed(_Gather, x, dim, group, kind) if sampling() else compat.all_gather(x, dim, group)


def reduce_scatter(x: Tensor, dim: int, group: dist.ProcessGroup, kind: str) -> Tensor:
    """Sum over the ranks and keep this rank's part of `dim`; its gradient is `all_gather`."""
    return _timed(_Scatter, x, dim, group, kind) if sampling() else compat.reduce_scatter(x, dim, group)


def all_to_all(x: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup, kind: str) -> Tensor:
    """As `compat.all_to_all`, which says what rows go where."""
    if not sampling():
        return compat.all_to_all(x, received, sent, group)
    with span(kind):
        return compat.waited(compat.all_to_all(x, received, sent, group))


def all_reduce(x: Tensor, group: dist.ProcessGroup, kind: str) -> Tensor:
    """Sum over the ranks, outside of autograd."""
    if not sampling():
        return compat.all_reduce(x, group)
    with span(kind):
        return compat.all_reduce(x, group)


def _timed(function: Any, *given: Any) -> Tensor:
    made: Tensor = function.apply(*given)
    return made


def _gathered(x: Tensor, dim: int, group: dist.ProcessGroup, kind: str) -> Tensor:
    with span(kind):
        return compat.waited(compat.all_gather(x, dim, group))


def _scattered(x: Tensor, dim: int, group: dist.ProcessGroup, kind: str) -> Tensor:
    with span(kind):
        return compat.waited(compat.reduce_scatter(x, dim, group))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: dist.ProcessGroup, kind: str) -> Tensor:
        ctx.given = dim, group, kind
        return _gathered(x, dim, group, kind)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _scattered(gradients[0].contiguous(), *ctx.given), None, None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: dist.ProcessGroup, kind: str) -> Tensor:
        ctx.given = dim, group, kind
        return _scattered(x, dim, group, kind)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _gathered(gradients[0].contiguous(), *ctx.given), None, None, None
