"""What the heads of a rank compute while a step runs: logits that a loss would otherwise use up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from meshwright.runtime.model import ParallelModel


@dataclass(slots=True)
class Heads:
    """Logits [microbatch, tokens of this rank, its part of the vocabulary] and targets, microbatch after microbatch, of
    the one head that a rank can have; `positions` [tokens] in their sequences, `first` token of the vocabulary."""

    logits: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    positions: Tensor | None = None
    first: int = 0

    def compare(self, own: Tensor, expected: Tensor) -> tuple[float, int]:
        """The largest difference over the largest logit expected, and how many were compared: all of the first step.
        `own` [sequences, seq_len + 1] are this rank's sequences then, `expected` [sequences, seq_len, vocab] theirs."""
        if self.positions is None:
            return 0.0, 0
        inside = self.positions < expected.shape[1]  # others are padding
        places, found = self.positions[inside], torch.cat(self.logits)[: len(own), inside]
        assert torch.equal(torch.cat(self.targets)[: len(own), inside], own[:, 1:][:, places])
        wanted = expected[:, places, self.first : self.first + found.shape[-1]]
        errors = (found - wanted).abs() / expected.abs().max()
        return errors.max().item() if errors.numel() else 0.0, errors.numel()


@contextmanager
def watched(model: ParallelModel) -> Iterator[Heads]:
    """What the head computes in the steps that run meanwhile, if this rank has one."""
    seen = Heads()
    heads = [(part, part.lm_head) for part in model.parts if getattr(part, "lm_head", None) is not None]
    for part, head in heads:
        seen.first = getattr(head, "first", 0)
        head.forward = _watching(head.forward, part, seen)
    try:
        yield seen
    finally:
        for _, head in heads:
            del head.forward


def _watching(forward: Callable[..., Tensor], part: nn.Module, seen: Heads) -> Callable[..., Tensor]:
    def watching(x: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            seen.logits.append(forward(x))
        seen.targets.append(targets)
        seen.positions = part.model.positions.of(targets.shape[1], targets.device)
        return forward(x, targets)

    return watching
