"""Rotary position embedding (RoFormer, arXiv:2104.09864), in the half-split layout of Hugging Face checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_tables(frequencies: Tensor, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [len(positions), 2 x len(frequencies)] of the given positions.

    Angles are kept in float32: in bfloat16 neighbouring positions beyond a few thousand fall together.
    """
    angles = torch.outer(positions.float(), frequencies.float()).repeat(1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads [batch, heads, seq_len, head_dim] by the angle of their position."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
