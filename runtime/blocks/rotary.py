"""Rotary: positions of one model, shared by all its layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...kernels.rotary import rotary, rotary_tables
from .positions import Positions
from .rope import Llama3Scaling, Rope, YarnScaling


class Rotary:
    """Cosine and sine tables, computed once for a length and device and kept: they are no model state."""

    def __init__(self, rope: Rope, positions: Positions):
        self.rope = rope
        self.positions = positions
        self._tables: dict[tuple[int, torch.device, torch.dtype, int], tuple[Tensor, Tensor]] = {}

    def turn(self, query: Tensor, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Heads [batch, heads, seq_len, width] of queries and keys (None: there are none, and none come out) turned by
        the positions of this rank's seq_len tokens."""
        cos, sin = self.tables(query.shape[2], query.device, query.dtype)
        keys = query.detach()[:, :0] if key is None else key
        return rotary(query, keys, cos, sin, pairs=self.rope.interleaved)

    def tables(self, seq_len: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [seq_len, rope.width] each, at the positions of this rank's `seq_len` tokens."""
        key = (seq_len, device, dtype, self.positions.version)
        if key not in self._tables:
            if self.positions.version:
                self._tables.clear()  # what was before does not come again
            turns, scaling = frequencies(self.rope).to(device), self.rope.scaling
            magnitude = scaling.attention_factor if isinstance(scaling, YarnScaling) else 1.0
            self._tables[key] = rotary_tables(turns, self.positions.of(seq_len, device), dtype, magnitude=magnitude)
        return self._tables[key]


def frequencies(rope: Rope) -> Tensor:
    """Radians a position, [rope.width / 2], fastest first."""
    exponents = torch.arange(0, rope.width, 2, dtype=torch.int64).float() / rope.width
    plain = 1.0 / (rope.theta**exponents)
    match rope.scaling:
        case Llama3Scaling():
            return _llama3(plain, rope.scaling)
        case YarnScaling():
            return _yarn(plain, rope, rope.scaling)
        case None:
            return plain


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Divide wavelengths beyond the original context by the factor, keep short ones, blend in between.

    Source: meta-llama/llama-models, models/llama3/model.py, apply_scaling.
    """
    turns = scaling.original_positions * plain / (2 * math.pi)  # of the original context
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0.0, 1.0)
    return (1 - keep) * plain / scaling.factor + keep * plain


def _yarn(plain: Tensor, rope: Rope, scaling: YarnScaling) -> Tensor:
    """As `_llama3`, blended along the index of the frequency (arXiv:2309.00071, equations 17 to 23)."""

    def index_of(turns: float) -> float:
        """Which frequency makes so many turns within the original context."""
        return rope.width * math.log(scaling.original_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = index_of(scaling.beta_fast), index_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.width - 1)
    spread = high - low if high != low else 0.001
    stretch = ((torch.arange(len(plain)).float() - low) / spread).clamp(0.0, 1.0)
    return plain / scaling.factor * stretch + plain * (1 - stretch)
