"""Loss: the output layer of one microbatch on one rank, in two parts; between them ranks exchange a few numbers.

The first takes the logits of the rank's rows; the second knows the sum over all rows, and has the gradients. In chunks
of tokens logits are made again for the second, and never stay.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ....kernels.cross_entropy import IGNORED
from .ends import Ends


class OutputLayer:
    """State of one microbatch from its S to its G."""

    def __init__(self, ends: Ends, hidden: Tensor, targets: Tensor, chunks: int, group: dist.ProcessGroup):
        """S. `hidden` as between blocks, of this rank's tokens; `targets` those of whole sequences."""
        self.ends, self.targets = ends, targets.flatten()
        self.hidden = hidden.detach().requires_grad_()
        self.entered = ends.boundary.enter(self.hidden)
        rows = self.entered.detach().flatten(0, -2)
        self.pieces = [each.requires_grad_() for each in rows.tensor_split(min(chunks, max(1, len(rows))))]
        self.logits = ends(self.pieces[0]) if len(self.pieces) == 1 else None
        own = torch.cat([_summary(self._logits(n), each) for n, each in enumerate(self._own_targets())], dim=1)
        self.every = [torch.empty_like(own) for _ in range(group.size())]
        self.exchange = dist.all_gather(self.every, own, group=group, async_op=True)

    @torch.no_grad()
    def _logits(self, piece: int) -> Tensor:
        logits: Tensor = self.ends(self.pieces[piece]) if self.logits is None else self.logits.detach()
        return logits

    def _own_targets(self) -> list[Tensor]:
        """Of each piece, the column of the target among the logits of this rank; below zero where another has it."""
        found = []
        for targets in self.targets.tensor_split(len(self.pieces)):
            found.append((targets - self.ends.first).masked_fill(targets == IGNORED, -1))
        return found

    def gradients(self, weight: float) -> tuple[Tensor, Tensor]:
        """G: the sum of the losses (equal on all ranks) and this rank's part of the gradient of `hidden`, both over
        `weight`; gradients of the rank's rows are added to those they have."""
        assert self.exchange is not None
        self.exchange.wait()
        totals, maxima, targets = torch.stack(self.every, dim=1)
        most = maxima.max(dim=0).values
        log_sum = (totals * (maxima - most).exp()).sum(0).log() + most
        counted = self.targets != IGNORED
        loss = (log_sum - targets.sum(0)).masked_fill(~counted, 0.0).sum()
        scale = counted.to(log_sum.dtype) / weight
        parts = zip(
            self._own_targets(), *(each.tensor_split(len(self.pieces)) for each in (log_sum, scale)), strict=True
        )
        for number, (columns, sums, scales) in enumerate(parts):
            logits = self.ends(self.pieces[number]) if self.logits is None else self.logits
            torch.autograd.backward(logits, _gradient(logits, columns, sums, scales))
            self.logits = None if len(self.pieces) > 1 else logits
        entered = torch.cat([_grad(piece) for piece in self.pieces]).view_as(self.entered)
        torch.autograd.backward(self.entered, entered)
        return loss / weight, _grad(self.hidden)


def _grad(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _summary(logits: Tensor, columns: Tensor) -> Tensor:
    """[3, tokens]: sum of the exponentials over the largest, the largest, and the target's logit where it is here."""
    wide = logits.float()
    if wide.shape[-1] == 0:  # fewer rows than ranks
        nothing = wide.new_zeros(len(wide))
        return torch.stack([nothing, nothing + torch.finfo(wide.dtype).min, nothing])
    highest = wide.max(dim=-1).values
    here = (columns >= 0) & (columns < wide.shape[-1])
    target = wide.gather(-1, columns.masked_fill(~here, 0).unsqueeze(-1)).squeeze(-1).masked_fill(~here, 0.0)
    return torch.stack([(wide - highest.unsqueeze(-1)).exp().sum(-1), highest, target])


@torch.no_grad()
def _gradient(logits: Tensor, columns: Tensor, log_sum: Tensor, scale: Tensor) -> Tensor:
    """Of the losses by these logits: probabilities, less one at the target, times `scale`."""
    found = (logits.float() - log_sum.unsqueeze(-1)).exp_()
    here = (columns >= 0) & (columns < found.shape[-1])
    if found.shape[-1]:
        found.scatter_add_(-1, columns.masked_fill(~here, 0).unsqueeze(-1), -here.to(found.dtype).unsqueeze(-1))
    return found.mul_(scale.unsqueeze(-1)).to(logits.dtype)
