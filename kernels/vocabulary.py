"""Vocabulary: the softmax of logits whose columns are shared out over ranks, and its gradient, in three steps.

Each rank sums up its share of the columns; ranks exchange these three numbers a token (four with label smoothing), never
the logits (as Megatron-LM does, arXiv:1909.08053, section 3, in three all-reduces); each then has the gradient of its own
columns. There is one collective, an all-gather: a largest logit and sums over it do not add up, so that one all-reduce
would need a bound on all logits known before, while what is gathered is merged exactly and cannot overflow.
Tensors of logits are overwritten where this is said.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .switch import runs_fast
from .terms import Share, Terms


class Totals(NamedTuple):
    """Over the whole vocabulary, [tokens] each: the sum of exponentials over the largest logit, that logit, the
    target's, and with label smoothing the sum of all logits."""

    sum: Tensor
    largest: Tensor
    target: Tensor
    whole: Tensor | None = None

    @property
    def log_sum(self) -> Tensor:
        """Of all exponentials."""
        return self.sum.log() + self.largest

    def losses(self, targets: Tensor, terms: Terms, vocab: int) -> Tensor:
        """In nats, [tokens]; 0 for what does not count, NaN for tokens that are not there."""
        found = self.sum.log() + (self.largest - self.target)
        if self.whole is not None:
            found = found + terms.label_smoothing * (self.target - self.whole / vocab)
        if terms.z_loss:
            found = found + terms.z_loss * self.log_sum.square()
        return found.masked_fill(targets >= vocab, torch.nan).masked_fill(~counted(targets), 0.0)

    def probability(self, largest: Tensor | None = None) -> Tensor:
        """What exponentials over `largest` (none: that of the whole vocabulary) are multiplied by to be probabilities,
        [tokens]."""
        return 1 / self.sum if largest is None else (largest - self.largest).exp() / self.sum

    def rate(self, terms: Terms) -> Tensor | float:
        """What probabilities are multiplied by in the gradient: one, and the slope of the square of `log_sum`."""
        return 1 + 2 * terms.z_loss * self.log_sum if terms.z_loss else 1.0


def counted(targets: Tensor) -> Tensor:
    """Which targets have a loss: those of padding are below zero."""
    return targets >= 0


def columns_of(targets: Tensor, first: int) -> Tensor:
    """Where the targets are among the columns from `first` on; below zero or behind them where they are not."""
    return (targets - first).masked_fill(~counted(targets), -1)


def summary(logits: Tensor, columns: Tensor, numbers: int = 3) -> Tensor:
    """[numbers, tokens] of `logits` [tokens, share], which become exponentials: their sum over the largest one, the
    largest logit, that of the target where it is here, and perhaps the sum of the logits."""
    if logits.shape[-1] == 0:  # fewer tokens than ranks
        nothing = logits.new_zeros(len(logits))
        least = nothing + torch.finfo(logits.dtype).min
        return torch.stack([nothing, least, nothing, nothing][:numbers])
    largest = logits.max(dim=-1).values
    here, places = _here(columns, logits.shape[-1])
    target = logits.gather(-1, places).squeeze(-1).masked_fill(~here, 0.0)
    whole = [logits.sum(-1)] if numbers > 3 else []
    return torch.stack([exponentials(logits, largest).sum(-1), largest, target, *whole])


def exponentials(logits: Tensor, largest: Tensor) -> Tensor:
    """What `summary` makes of its logits."""
    return logits.sub_(largest.unsqueeze(-1)).exp_()


def gathered(own: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Summaries of all shares, [ranks, numbers, tokens]; no group: there is one."""
    return own.unsqueeze(0) if group is None else gathering(own, group)[0]


def gathering(own: Tensor, group: dist.ProcessGroup, later: bool = False) -> tuple[Tensor, dist.Work | None]:
    """The same, perhaps while it is still under way."""
    every = own.new_empty((group.size(), *own.shape))
    return every, dist.all_gather(list(every.unbind()), own.contiguous(), group=group, async_op=later)


def totals(every: Tensor) -> Totals:
    """Of the summaries of all shares [ranks, numbers, tokens]."""
    sums, maxima, targets, *whole = every.unbind(1)
    most = maxima.max(dim=0).values
    return Totals((sums * (maxima - most).exp()).sum(0), most, targets.sum(0), whole[0].sum(0) if whole else None)


def gradient(powers: Tensor, targets: Tensor, share: Share, probability: Tensor, whole: Totals, terms: Terms) -> Tensor:
    """Of the losses by the logits that became `powers` [tokens, share], in their place: probabilities, less what the
    target, or with label smoothing every column, should have."""
    powers.mul_((probability * whole.rate(terms)).unsqueeze(-1))
    if terms.label_smoothing:
        powers.sub_(terms.label_smoothing / share.vocab)
    if powers.shape[-1]:
        here, places = _here(columns_of(targets, share.first), powers.shape[-1])
        powers.scatter_add_(-1, places, (terms.label_smoothing - 1) * here.to(powers.dtype).unsqueeze(-1))
    return powers.masked_fill_(~counted(targets).unsqueeze(-1), 0.0)


def _here(columns: Tensor, share: int) -> tuple[Tensor, Tensor]:
    """Which columns are among so many, and all as places to look at, [tokens, 1]."""
    here = (columns >= 0) & (columns < share)
    return here, columns.masked_fill(~here, 0).unsqueeze(-1)


def _runs_fast(logits: Tensor) -> bool:
    return runs_fast("cross_entropy", logits, rows=len(logits), vocab=logits.shape[-1])


def summarise(logits: Tensor, targets: Tensor, share: Share, terms: Terms) -> Tensor:
    """As `summary`, in float32, of logits that stay as they are."""
    if _runs_fast(logits):
        from .fast.cross_entropy import summarise as fast

        return fast(logits, targets, share.first, terms)
    return summary(_wide(logits), columns_of(targets, share.first), terms.numbers)


def slopes(
    logits: Tensor, targets: Tensor, every: Tensor, share: Share, terms: Terms, scale: float
) -> tuple[Tensor, Tensor]:
    """Losses [tokens] of the summaries of all shares, and the gradient of the share of the logits that is here, in their
    type; both times `scale`."""
    if _runs_fast(logits):
        from .fast.cross_entropy import slopes as fast

        return fast(logits, targets, every, share, terms, scale)
    whole = totals(every)
    powers = exponentials(_wide(logits), whole.largest)
    found = gradient(powers, targets, share, whole.probability(), whole, terms)
    return whole.losses(targets, terms, share.vocab) * scale, found.mul_(scale).to(logits.dtype)


def _wide(logits: Tensor) -> Tensor:
    """A copy to write to, in float32 (float64 of such)."""
    return logits.detach().to(torch.promote_types(logits.dtype, torch.float32), copy=True)
