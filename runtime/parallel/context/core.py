"""ContextCore: what all algorithms that pass blocks around have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...blocks import kept
from ...blocks.core import Core
from .tiles import View, Views


class ContextCore(nn.Module, ABC):
    """Takes the place of a `Core` where each rank of `group` has the part of the sequence that `Zigzag` deals it.

    Queries, keys and values are those of this rank's tokens; `documents` [batch, ranks x local] are those of all
    ranks, rank after rank. Output and gradients are those that one device with the whole sequence finds.
    """

    def __init__(self, core: Core, group: dist.ProcessGroup, views: Views):
        super().__init__()
        self.views = views
        self.scoring = core.scoring
        self.group = group
        self.rank, self.size = group.rank(), group.size()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None = None) -> Tensor:
        view = self.views.of(self.size, query.shape[2], self.scoring.window, documents)
        return _read(query, key, value, view, self)

    @abstractmethod
    def read(self, query: Tensor, key: Tensor, value: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of this rank's queries over the keys of all ranks."""

    @abstractmethod
    def read_backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, view: View
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of this rank's queries, keys and values, given that of its output."""


class _Read(torch.autograd.Function):
    """Keeps what this rank had and found; the backward pass asks the other ranks again."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, view: View, core: ContextCore) -> Tensor:
        output, lse = kept.recall(lambda: core.read(query, key, value, view))
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.view, ctx.core = view, core
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        found = ctx.core.read_backward(gradients[0].contiguous(), query, key, value, output, lse, ctx.view)
        return (*(each.to(query.dtype) for each in found), None, None)


_read: Callable[[Tensor, Tensor, Tensor, View, ContextCore], Tensor] = _Read.apply
