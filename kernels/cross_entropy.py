"""Cross-entropy of next-token logits, whole or sharded over the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .vocabulary import columns_of, counted, gradient, over_shares, summary

IGNORED = -100
"""A target that counts nothing: padding. PyTorch's and transformers' own number for it; so does any below zero."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the losses in nats of `logits` [..., vocab] against token ids `targets` [...], in float32.

    Targets below zero count nothing.
    """
    logits, targets = logits.flatten(0, -2).float(), targets.flatten()
    targets = targets.masked_fill(~counted(targets), IGNORED)
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def vocabulary_cross_entropy(logits: Tensor, targets: Tensor, group: dist.ProcessGroup, first: int) -> Tensor:
    """As `cross_entropy`, where this rank of `group` holds the logits [..., share] of the tokens from `first` on.

    Every rank passes the same targets and gets the same loss. Shares need not be equal, nor hold anything.
    """
    return _vocabulary_cross_entropy(logits.flatten(0, -2), targets.flatten(), group, first)


class _VocabularyCrossEntropy(torch.autograd.Function):
    """Keeps its gradient, as large as the logits in float32."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, group: dist.ProcessGroup, first: int) -> Tensor:
        powers, columns = logits.to(torch.float32, copy=True), columns_of(targets, first)
        own = summary(powers, columns)
        totals = over_shares(own, group)
        ctx.dtype = logits.dtype
        ctx.save_for_backward(gradient(powers, columns, totals.probability(own), counted(targets).to(powers.dtype)))
        return totals.losses(targets).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (found,) = ctx.saved_tensors
        return (found * gradients[0]).to(ctx.dtype), None, None, None


_vocabulary_cross_entropy: Callable[[Tensor, Tensor, dist.ProcessGroup, int], Tensor] = _VocabularyCrossEntropy.apply
