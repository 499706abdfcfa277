"""Loss: the output layer of one microbatch on one rank, in two parts; between them ranks exchange a few numbers.

The first takes the logits of the rank's rows; the second knows the sum over all rows, and has the gradients. In chunks
of tokens logits are made again for the second, and never stay.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ....kernels.terms import Share
from ....kernels.vocabulary import gathering, slopes, summarise
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
        self.terms = ends.lm_head.added  # logits come softcapped
        self.share = Share(group, ends.first, ends.lm_head.vocab)
        parts = [
            summarise(self._logits(number), targets, self.share, self.terms)
            for number, targets in enumerate(self._targets())
        ]
        self.every, self.exchange = gathering(torch.cat(parts, dim=1), group, later=True)

    @torch.no_grad()
    def _logits(self, piece: int) -> Tensor:
        logits: Tensor = self.ends(self.pieces[piece]) if self.logits is None else self.logits.detach()
        return logits

    def _targets(self) -> tuple[Tensor, ...]:
        """Of each piece."""
        return self.targets.tensor_split(len(self.pieces))

    def gradients(self, weight: float) -> tuple[Tensor, Tensor]:
        """G: the sum of the losses (equal on all ranks) and this rank's part of the gradient of `hidden`, both over
        `weight`; gradients of the rank's rows are added to those they have."""
        assert self.exchange is not None
        with span("pp"):
            self.exchange.wait()
        losses = []
        parts = zip(self._targets(), self.every.tensor_split(len(self.pieces), dim=-1), strict=True)
        for number, (targets, every) in enumerate(parts):
            logits = self.ends(self.pieces[number]) if self.logits is None else self.logits
            lost, found = slopes(logits.detach(), targets, every, self.share, self.terms, 1 / weight)
            losses.append(lost)
            torch.autograd.backward(logits, found)
        entered = torch.cat([_grad(piece) for piece in self.pieces]).view_as(self.entered)
        torch.autograd.backward(self.entered, entered)
        return torch.cat(losses).sum(), _grad(self.hidden)


def _grad(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
