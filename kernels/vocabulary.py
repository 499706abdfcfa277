"""Vocabulary: the softmax of logits whose columns are shared out over ranks, and its gradient, in three steps.

Each rank sums up its share of the columns; ranks exchange these three numbers a token, never the logits (as Megatron-LM
does, arXiv:1909.08053, section 3); each then has the gradient of its own columns. Tensors of logits are overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Totals(NamedTuple):
    """Over the whole vocabulary, [tokens] each: the sum of exponentials over the largest logit, that logit, and the
    target's."""

    sum: Tensor
    largest: Tensor
    target: Tensor

    def losses(self, targets: Tensor) -> Tensor:
        """In nats, [tokens]; 0 for what does not count."""
        return (self.sum.log() + self.largest - self.target).masked_fill(~counted(targets), 0.0)

    def probability(self, own: Tensor) -> Tensor:
        """What a share's exponentials are multiplied by to be probabilities, [tokens]; `own` is its summary."""
        return (own[1] - self.largest).exp() / self.sum


def counted(targets: Tensor) -> Tensor:
    """Which targets have a loss: those of padding are below zero."""
    return targets >= 0


def columns_of(targets: Tensor, first: int) -> Tensor:
    """Where the targets are among the columns from `first` on; below zero or behind them where they are not."""
    return (targets - first).masked_fill(~counted(targets), -1)


def summary(logits: Tensor, columns: Tensor) -> Tensor:
    """[3, tokens] of `logits` [tokens, share], which become exponentials: their sum over the largest one, the largest
    logit, and that of the target where it is here."""
    if logits.shape[-1] == 0:  # fewer tokens than ranks
        nothing = logits.new_zeros(len(logits))
        return torch.stack([nothing, nothing + torch.finfo(logits.dtype).min, nothing])
    largest = logits.max(dim=-1).values
    here, places = _here(columns, logits.shape[-1])
    target = logits.gather(-1, places).squeeze(-1).masked_fill(~here, 0.0)
    return torch.stack([exponentials(logits, largest).sum(-1), largest, target])


def exponentials(logits: Tensor, largest: Tensor) -> Tensor:
    """What `summary` makes of its logits."""
    return logits.sub_(largest.unsqueeze(-1)).exp_()


def over_shares(own: Tensor, group: dist.ProcessGroup | None) -> Totals:
    """Exchange the summaries of all shares; no group: there is one."""
    if group is None:
        return totals([own])
    every = [torch.empty_like(own) for _ in range(group.size())]
    dist.all_gather(every, own, group=group)
    return totals(every)


def totals(every: Sequence[Tensor]) -> Totals:
    """Of the summaries of all shares."""
    sums, maxima, targets = torch.stack(list(every), dim=1)
    most = maxima.max(dim=0).values
    return Totals((sums * (maxima - most).exp()).sum(0), most, targets.sum(0))


def gradient(powers: Tensor, columns: Tensor, probability: Tensor, scale: Tensor) -> Tensor:
    """Of the losses by the logits that became `powers`: probabilities, less one at the target, times `scale`, which is
    0 for what does not count. All but `powers` and the result [tokens, share] are [tokens]."""
    powers.mul_(probability.unsqueeze(-1))
    if powers.shape[-1]:
        here, places = _here(columns, powers.shape[-1])
        powers.scatter_add_(-1, places, -here.to(powers.dtype).unsqueeze(-1))
    return powers.mul_(scale.unsqueeze(-1))


def _here(columns: Tensor, share: int) -> tuple[Tensor, Tensor]:
    """Which columns are among so many, and all as places to look at, [tokens, 1]."""
    here = (columns >= 0) & (columns < share)
    return here, columns.masked_fill(~here, 0).unsqueeze(-1)
