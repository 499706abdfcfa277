"""Rotary: positions of one model, shared by all its layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...kernels.rotary import rotary_tables
from .positions import Positions
from .shape import Llama3Scaling, Shape


class Rotary:
    """Cosine and sine tables, computed once for a length and device and kept: they are no model state."""

    def __init__(self, shape: Shape, positions: Positions):
        self.shape = shape
        self.positions = positions
        self._tables: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def tables(self, seq_len: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [seq_len, head_dim] each, at the positions of this rank's `seq_len` tokens."""
        key = (seq_len, device, dtype)
        if key not in self._tables:
            turns = frequencies(self.shape).to(device)
            self._tables[key] = rotary_tables(turns, self.positions.of(seq_len, device), dtype)
        return self._tables[key]


def frequencies(shape: Shape) -> Tensor:
    """Radians a position, [head_dim / 2], fastest first."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    plain = 1.0 / (shape.rope_theta**exponents)
    return plain if shape.rope_scaling is None else _llama3(plain, shape.rope_scaling)


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Divide wavelengths beyond the original context by the factor, keep short ones, blend in between.

    Source: meta-llama/llama-models, models/llama3/model.py, apply_scaling.
    """
    turns = scaling.original_positions * plain / (2 * math.pi)  # of the original context
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0.0, 1.0)
    return (1 - keep) * plain / scaling.factor + keep * plain
