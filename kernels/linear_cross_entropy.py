"""Output projection and cross-entropy in chunks of tokens: the logits of a whole sequence never exist.

As in StreamBP (arXiv:2506.03077, section 3), a chunk's logits are made, their loss and their gradient computed at
once, and thrown away. The products are those of the whole, done earlier: both of the backward pass in the forward.
What stays until the backward pass is as large as the hidden states and the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .vocabulary import columns_of, counted, gradient, over_shares, summary


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    chunks: int = 1,
    softcap: float | None = None,
    group: dist.ProcessGroup | None = None,
    first: int = 0,
) -> Tensor:
    """Sum of the losses in nats of `hidden` [..., width] times `weight` [vocab, width] against ids `targets` [...].

    Targets below zero count nothing. `softcap` c bounds logits to c tanh(logit / c). With `group`, this rank holds the
    vocabulary's rows from `first` on, perhaps none; every rank passes the same hidden states and targets and gets the
    same loss, and the gradient of `hidden` is its own part of a sum. Three numbers a token are exchanged, once a chunk.
    Losses and the gradient of the weight are added up in float32 (float64 for such inputs).
    """
    pieces = min(chunks, max(1, targets.numel()))
    return _linear_cross_entropy(hidden, weight, targets, pieces, softcap, Share(group, first))


class Share(NamedTuple):
    """Who has which part of the vocabulary."""

    group: dist.ProcessGroup | None
    first: int


class _Chunk(NamedTuple):
    """Sum of the losses of some tokens, and its gradient by their logits [tokens, share of the vocabulary]."""

    loss: Tensor
    gradient: Tensor


def _chunk(logits: Tensor, targets: Tensor, softcap: float | None, share: Share) -> _Chunk:
    """`logits` [tokens, share] are overwritten."""
    slope = None
    if softcap is not None:
        logits = logits.div_(softcap).tanh_()
        slope = 1 - logits.square()
        logits = logits.mul_(softcap)
    columns = columns_of(targets, share.first)
    own = summary(logits, columns)
    totals = over_shares(own, share.group)
    found = gradient(logits, columns, totals.probability(own), counted(targets).to(logits.dtype))
    return _Chunk(totals.losses(targets).sum(), found if slope is None else found.mul_(slope))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunks: int,
        softcap: float | None,
        share: Share,
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        rows, labels, matrix = hidden.flatten(0, -2), targets.flatten(), weight.to(hidden.dtype)
        back = any(ctx.needs_input_grad[:2])
        to_hidden = torch.empty_like(rows) if back else None
        to_weight = torch.zeros_like(weight, dtype=wide) if back else None
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        start = 0
        for part, label in zip(rows.tensor_split(chunks), labels.tensor_split(chunks), strict=True):
            piece = _chunk((part @ matrix.t()).to(wide), label, softcap, share)
            loss += piece.loss
            if to_hidden is not None and to_weight is not None:
                slopes = piece.gradient.to(hidden.dtype)
                torch.mm(slopes, matrix, out=to_hidden[start : start + len(part)])
                to_weight += slopes.t() @ part
            start += len(part)
        ctx.save_for_backward(None if to_hidden is None else to_hidden.view_as(hidden), to_weight)
        ctx.dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        to_hidden, to_weight = ctx.saved_tensors
        scale = gradients[0]
        first = to_hidden * scale.to(to_hidden.dtype) if ctx.needs_input_grad[0] else None
        # Straight into the weight's own precision: no second copy in float32.
        into = torch.empty_like(to_weight, dtype=ctx.dtype)
        second = torch.mul(to_weight, scale, out=into) if ctx.needs_input_grad[1] else None
        return first, second, None, None, None, None


_linear_cross_entropy: Callable[..., Tensor] = _LinearCrossEntropy.apply
