"""Dropout: of hidden states between blocks, with the same masks on every mesh."""

from __future__ import annotations

from torch import Tensor, nn

from ...kernels.dropout import dropout
from .positions import Positions


class Dropout(nn.Module):
    """Drops entries of hidden states [batch, tokens, hidden] out where their sequences have drawn; `site` numbers the
    dropouts of a model."""

    def __init__(self, rate: float, site: int, positions: Positions):
        super().__init__()
        self.rate, self.site, self.positions = rate, site, positions

    def forward(self, x: Tensor, draws: Tensor | None) -> Tensor:
        """`draws` int64 [batch], as of kernels.dropout; None: nothing is dropped out."""
        if self.rate == 0.0 or draws is None:
            return x
        return dropout(x, self.rate, draws, self.site, self.positions.between_blocks(x.shape[1], x.device))
