"""Embedding: token ids to vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import Positions


class Embedding(nn.Module):
    """Ids [batch, seq_len] to [batch, seq_len, hidden]; the precision of all activations is decided here."""

    def __init__(self, vocab: int, hidden: int, dtype: torch.dtype, scale: float = 1.0):
        super().__init__()
        self.dtype, self.scale = dtype, scale
        self.weight = nn.Parameter(torch.empty(vocab, hidden))

    def forward(self, tokens: Tensor) -> Tensor:
        return scaled(F.embedding(tokens, self.weight).to(self.dtype), self.scale)


def scaled(x: Tensor, scale: float) -> Tensor:
    """Gemma scales its embeddings in their own precision."""
    return x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype, device=x.device)


class LearnedPositions(nn.Module):
    """Adds a learned vector for its position to each hidden state [batch, seq_len, hidden]."""

    def __init__(self, count: int, hidden: int, positions: Positions):
        super().__init__()
        self.positions = positions
        self.weight = nn.Parameter(torch.empty(count, hidden))

    def forward(self, x: Tensor) -> Tensor:
        return add_positions(x, self.weight, self.positions)


def add_positions(x: Tensor, weight: Tensor, positions: Positions) -> Tensor:
    """`x` plus the rows of `weight` [count, hidden] at the positions of the hidden states that this rank has."""
    return x + F.embedding(positions.between_blocks(x.shape[1], x.device), weight).to(x.dtype)
