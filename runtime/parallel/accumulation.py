"""Accumulation: a step without a pipeline, microbatch after microbatch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .batch import Batch
from .data import before_microbatch, begin_step, end_step


@dataclass(frozen=True, slots=True)
class Accumulation:
    """Forward and backward of `microbatches` equal parts of the local batch."""

    part: nn.Module
    microbatches: int
    zero: int

    def forwards(self, layer: int) -> range:
        """Microbatches in the order of their forwards, whatever the layer."""
        return range(self.microbatches)

    def step(self, batch: Batch) -> Tensor:
        """Leave the gradient of the mean loss of a local batch and return that loss."""
        losses = []
        begin_step(self.part)
        for index, each in enumerate(batch.split(self.microbatches)):
            before_microbatch(self.part, zero=self.zero, last=index == self.microbatches - 1)
            loss = self.part(each.tokens, each.targets, **each.shared) / batch.weight
            torch.autograd.backward(loss)
            losses.append(loss.detach())
        end_step(self.part)
        return torch.stack(losses).sum()
