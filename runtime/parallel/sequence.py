"""Entering and leaving a tensor-parallel block (Megatron-LM, arXiv:1909.08053; arXiv:2205.05198 for sp).

Between blocks the hidden states are either equal on all ranks, or (sp) each rank has a part of the
sequence. Inside, every rank has the whole sequence and its share of the heads or of the feed-forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import collectives

SEQUENCE_DIM = 1  # of [batch, seq_len, hidden]


@dataclass(frozen=True, slots=True)
class Boundary:
    """How hidden states cross into and out of the blocks of one tensor-parallel group."""

    group: dist.ProcessGroup
    sp: bool

    def enter(self, x: Tensor) -> Tensor:
        """[batch, seq_len or its part, hidden] to the whole sequence."""
        if self.sp:
            return collectives.all_gather(x, SEQUENCE_DIM, self.group, "tp")
        return _sum_gradients(x, self.group)

    def leave(self, x: Tensor) -> Tensor:
        """Partial sums over the whole sequence to sums, of the sequence or of this rank's part of it."""
        if self.sp:
            return collectives.reduce_scatter(x, SEQUENCE_DIM, self.group, "tp")
        return _sum(x, self.group)


class _SumGradients(torch.autograd.Function):
    """Identity forward, all-reduce backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return collectives.all_reduce(gradients[0].contiguous(), ctx.group, "tp"), None


class _Sum(torch.autograd.Function):
    """All-reduce forward, identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return collectives.all_reduce(x.contiguous(), group, "tp")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def sum_everywhere(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over the ranks, of which each goes on with its own part of the result: its gradient is summed too."""
    return _sum_gradients(_sum(x, group), group)


_sum_gradients: Callable[[Tensor, dist.ProcessGroup], Tensor] = _SumGradients.apply
_sum: Callable[[Tensor, dist.ProcessGroup], Tensor] = _Sum.apply
