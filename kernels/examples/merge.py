"""Arguments of merge."""

from __future__ import annotations

import torch

from ..kernel import Sizes
from .example import Example, Maker


def merge(maker: Maker, sizes: Sizes) -> Example:
    """A running output and log-sum-exp in float32, and those of a block in the example's type."""
    leading, wide = (sizes["batch"], sizes["heads"], sizes["rows"]), torch.float32
    arguments = {
        "output": maker.normal(*leading, sizes["width"], dtype=wide),
        "lse": maker.normal(*leading, scale=3.0, dtype=wide),
        "other": maker.normal(*leading, sizes["width"]),
        "other_lse": maker.normal(*leading, scale=3.0, dtype=wide),
    }
    return Example(arguments, tuple(arguments))
