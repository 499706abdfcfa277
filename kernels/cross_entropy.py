"""Cross-entropy of next-token logits, whole or sharded over the vocabulary.

The sharded form follows Megatron-LM (arXiv:1909.08053, section 3): ranks exchange one maximum and one
pair of sums a token, never the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""A target that counts nothing: padding. PyTorch's and transformers' own number for it."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the losses in nats of `logits` [..., vocab] against token ids `targets` [...], in float32.

    Targets of IGNORED count nothing.
    """
    logits, targets = logits.flatten(0, -2).float(), targets.flatten()
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def vocabulary_cross_entropy(logits: Tensor, targets: Tensor, group: dist.ProcessGroup, first: int) -> Tensor:
    """As `cross_entropy`, where this rank of `group` holds the logits [..., share] of the tokens from `first` on.

    Every rank passes the same targets and gets the same loss. Shares need not be equal, nor hold anything.
    """
    return _vocabulary_cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), group, first)


class _VocabularyCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, group: dist.ProcessGroup, first: int) -> Tensor:
        share = logits.shape[-1]
        ignored = targets == IGNORED
        local = targets - first
        elsewhere = (local < 0) | (local >= share) | ignored
        if share == 0:  # fewer tokens than ranks: nothing is found or added here
            logits = logits.new_full((len(logits), 1), float("-inf"))
        local = local.masked_fill(elsewhere, 0).unsqueeze(-1)

        highest = logits.max(dim=-1, keepdim=True).values
        dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group)
        shifted = logits - highest
        exponentials = shifted.exp()
        target = shifted.gather(-1, local).squeeze(-1).masked_fill(elsewhere, 0.0)
        sums = torch.stack([exponentials.sum(-1), target])
        dist.all_reduce(sums, group=group)

        probabilities = exponentials / sums[0].unsqueeze(-1)
        ctx.share = share
        ctx.save_for_backward(probabilities.masked_fill_(ignored.unsqueeze(-1), 0.0), local, elsewhere)
        return (sums[0].log() - sums[1]).masked_fill(ignored, 0.0).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        probabilities, local, elsewhere = ctx.saved_tensors
        here = (~elsewhere).to(probabilities.dtype).unsqueeze(-1)
        gradient = probabilities.scatter_add(-1, local, -here)[:, : ctx.share]
        return gradient * gradients[0], None, None, None


_vocabulary_cross_entropy: Callable[[Tensor, Tensor, dist.ProcessGroup, int], Tensor] = _VocabularyCrossEntropy.apply
