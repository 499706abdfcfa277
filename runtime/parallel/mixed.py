"""Mixed: a step whose rounds have groups of their own, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .context.rounds import Rounds, Share
from .data import before_microbatch, begin_step, end_step


@dataclass(frozen=True, slots=True)
class Mixed:
    """Forward and backward of the rounds of a step."""

    part: nn.Module
    rounds: Rounds
    zero: int

    def step(self, shares: Sequence[Share], weight: float) -> Tensor:
        """Leave the gradient of the sum of this rank's losses over `weight`, and return that sum."""
        losses = []
        begin_step(self.part)
        for index, share in enumerate(shares):
            before_microbatch(self.part, zero=self.zero, last=index == len(shares) - 1)
            self.rounds.enter(share)
            loss = self.part(share.tokens, share.targets) / weight
            torch.autograd.backward(loss)  # recomputation looks at the same round
            losses.append(loss.detach())
        end_step(self.part)
        return torch.stack(losses).sum()
