"""Ulysses: all-to-all over heads (DeepSpeed Ulysses, arXiv:2309.14509).

Outside of attention a rank has a part of the sequence and all heads; inside, the whole sequence and a part of the
heads, so that any core can do the reading. One exchange before it, one after it. Where keys have fewer heads than there
are ranks, each is sent to all ranks whose queries read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ....planner.sequence import copies
from .transfer import all_to_all
from .zigzag import joined, parted

SEQUENCE_DIM = 2  # of [batch, heads, local, width]


class UlyssesCore(nn.Module):
    """Exchanges heads for tokens within `group` (neighbours in the sequence's layout) and lets `inner` read.

    `inner` is a `Core` where the group has the whole sequence, or a context core over the groups (USP: the product of
    both, arXiv:2405.07719), and `documents` are as it reads them. Queries must have a multiple of as many heads as the
    group has ranks.
    """

    def __init__(self, inner: nn.Module, group: dist.ProcessGroup):
        super().__init__()
        self.inner = inner
        self.group = group

    def forward(self, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None = None) -> Tensor:
        ranks = self.group.size()
        sent_to = copies(query.shape[1], key.shape[1], ranks)
        key, value = (x.repeat_interleave(sent_to, dim=1) for x in (key, value))
        widths = [x.shape[1] // ranks * x.shape[-1] for x in (query, key, value)]
        sent = torch.cat([_by_rank(x, ranks) for x in (query, key, value)], dim=-1)
        heads = torch.split(joined(_all_to_all(sent, self.group), dim=1), widths, dim=-1)
        parts = [_unfold(x, like.shape[-1]) for x, like in zip(heads, (query, key, value), strict=True)]
        mixed: Tensor = self.inner(*parts, documents)
        back = _all_to_all(parted(mixed, ranks, SEQUENCE_DIM), self.group)
        return back.transpose(0, 1).flatten(1, 2)


def _by_rank(x: Tensor, ranks: int) -> Tensor:
    """[batch, heads, local, width] to [ranks, batch, local, heads / ranks x width]."""
    return torch.unflatten(x, 1, (ranks, -1)).permute(1, 0, 3, 2, 4).flatten(3)


def _unfold(x: Tensor, width: int) -> Tensor:
    """[batch, tokens, heads x width] to [batch, heads, tokens, width]."""
    return torch.unflatten(x, -1, (-1, width)).transpose(1, 2)


class _AllToAll(torch.autograd.Function):
    """Its own opposite, forward and backward."""

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return all_to_all(blocks, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return all_to_all(gradients[0], ctx.group), None


_all_to_all: Callable[[Tensor, dist.ProcessGroup], Tensor] = _AllToAll.apply
