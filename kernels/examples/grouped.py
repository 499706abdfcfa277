"""Arguments of grouped products."""

from __future__ import annotations

import torch

from ..kernel import Sizes
from .example import Example, Maker


def grouped(maker: Maker, sizes: Sizes) -> Example:
    """Rows drawn over experts, some of which get none."""
    experts = sizes["experts"]
    drawn = maker.integers(0, experts, sizes["rows"]) * maker.integers(0, 2, 1)  # anywhere, or all to the first
    counts = torch.bincount(drawn, minlength=experts)
    arguments = {
        "x": maker.normal(sizes["rows"], sizes["inner"]),
        "weight": maker.normal(experts, sizes["outer"], sizes["inner"]),
        "counts": counts,
    }
    return Example(arguments, ("x", "weight"))
