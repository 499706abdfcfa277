"""Moe: a feed-forward block of routed experts."""

from __future__ import annotations

from torch import Tensor, nn

from .shape import Shape


class Moe(nn.Module):
    """[batch, seq_len, hidden] to the same."""

    def __init__(self, shape: Shape):
        super().__init__()
        raise NotImplementedError("experts do not run yet")

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError
