"""Arguments of rotations."""

from __future__ import annotations

import torch

from ..kernel import Sizes
from ..rotary import rotary_tables
from .example import Example, Maker


def rotary(maker: Maker, sizes: Sizes) -> Example:
    """Heads behind a transpose, as projections give them; tokens in the middle of a sequence, as on a rank of context
    parallelism."""
    batch, seq_len, width = sizes["batch"], sizes["seq_len"], sizes["width"]
    half = min(sizes["turned"], width) // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=maker.device, dtype=torch.float32) / half)
    positions = torch.arange(1000, 1000 + seq_len, device=maker.device)
    cos, sin = rotary_tables(frequencies, positions, maker.dtype)
    arguments = {
        "query": maker.normal(batch, seq_len, sizes["heads"], width).transpose(1, 2),
        "key": maker.normal(batch, seq_len, sizes["kv_heads"], width).transpose(1, 2),
        "cos": cos,
        "sin": sin,
    }
    return Example(arguments, ("query", "key"))
