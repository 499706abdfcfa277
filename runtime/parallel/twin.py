"""Twin: a tied embedding and the head in another virtual stage of the same rank, as in a V, where both ends meet.

Each stage is sharded by itself, so that the head has a tensor of its own. The embedding is the parameter that
everybody else knows; the head's is a copy, made before each step, whose gradient is added to the embedding's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...errors import RunError
from ..blocks.transformer import EMBEDDING, HEAD
from ..shards import local


@dataclass(frozen=True, slots=True)
class Twin:
    """Two parameters with one value, of the same shape and sharded alike."""

    embedding: nn.Parameter
    copy: nn.Parameter

    @torch.no_grad()
    def spread(self) -> None:
        """Before a step: give the head the embedding's values, and drop the gradient of the last step."""
        local(self.copy).copy_(local(self.embedding))
        self.copy.grad = None

    @torch.no_grad()
    def add_up(self) -> None:
        """After a step: the embedding's gradient is that of both."""
        if self.copy.grad is None or self.embedding.grad is None:
            raise RunError(f"no gradient reached {HEAD if self.copy.grad is None else EMBEDDING}")
        local(self.embedding.grad).add_(local(self.copy.grad))


def twin_of(parts: Sequence[nn.Module], *, tied: bool) -> Twin | None:
    """The twins among the parts of a rank. One stage that holds both ends has one parameter for them."""
    found = {name: each for part in parts for name, each in part.named_parameters() if name in (EMBEDDING, HEAD)}
    return Twin(found[EMBEDDING], found[HEAD]) if tied and len(found) == 2 else None
