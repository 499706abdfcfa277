"""Arguments of a step of AdamW."""

from __future__ import annotations

import torch

from ..adamw import Options
from ..kernel import Sizes
from .example import Example, Maker


def adamw(maker: Maker, sizes: Sizes) -> Example:
    """Parameter and moments in float32, a gradient in the example's type, in the middle of training."""
    elements, wide = sizes["elements"], torch.float32
    arguments = {
        "parameter": maker.normal(elements, dtype=wide),
        "gradient": maker.normal(elements),
        "first": maker.normal(elements, scale=0.1, dtype=wide),
        "second": maker.normal(elements, scale=0.1, dtype=wide).square(),
        "scale": torch.full((), 0.5, device=maker.device, dtype=wide),
        "options": Options(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, step=7),
    }
    return Example(arguments, ())
