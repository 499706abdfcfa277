"""Loss: the output layer of one microbatch on one rank, in two parts; between them ranks exchange a few numbers.

The first takes the logits of the rank's rows; the second knows the sum over all rows, and has the gradients. In chunks
of tokens logits are made again for the second, and never stay.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ....kernels.vocabulary import columns_of, counted, exponentials, gradient, summary, totals
from ...components import span
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
        parts = [summary(_wide(self._logits(n)), columns) for n, columns in enumerate(self._columns())]
        self.own = torch.cat(parts, dim=1)
        self.every = [torch.empty_like(self.own) for _ in range(group.size())]
        self.exchange = dist.all_gather(self.every, self.own, group=group, async_op=True)

    @torch.no_grad()
    def _logits(self, piece: int) -> Tensor:
        logits: Tensor = self.ends(self.pieces[piece]) if self.logits is None else self.logits.detach()
        return logits

    def _columns(self) -> list[Tensor]:
        """Of each piece, the column of the target among the logits of this rank; below zero where another has it."""
        return [columns_of(targets, self.ends.first) for targets in self.targets.tensor_split(len(self.pieces))]

    def gradients(self, weight: float) -> tuple[Tensor, Tensor]:
        """G: the sum of the losses (equal on all ranks) and this rank's part of the gradient of `hidden`, both over
        `weight`; gradients of the rank's rows are added to those they have."""
        assert self.exchange is not None
        with span("pp"):
            self.exchange.wait()
        whole = totals(self.every)
        scale = counted(self.targets).to(self.own.dtype) / weight
        each_token = (self.own[1], whole.probability(self.own), scale)
        parts = zip(self._columns(), *(each.tensor_split(len(self.pieces)) for each in each_token), strict=True)
        for number, (columns, largest, probability, scales) in enumerate(parts):
            logits = self.ends(self.pieces[number]) if self.logits is None else self.logits
            powers = exponentials(_wide(logits), largest)
            torch.autograd.backward(logits, gradient(powers, columns, probability, scales).to(logits.dtype))
            self.logits = None if len(self.pieces) > 1 else logits
        entered = torch.cat([_grad(piece) for piece in self.pieces]).view_as(self.entered)
        torch.autograd.backward(self.entered, entered)
        return whole.losses(self.targets).sum() / weight, _grad(self.hidden)


def _grad(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _wide(logits: Tensor) -> Tensor:
    """A copy to write to."""
    return logits.detach().to(torch.float32, copy=True)
