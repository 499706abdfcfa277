"""Arguments of norms."""

from __future__ import annotations

import torch

from ..kernel import Sizes
from .example import Example, Maker

_EPS = 1e-5


def _made(maker: Maker, sizes: Sizes, *names: str) -> Example:
    """Rows far from zero mean, so that the mean matters; weights in float32, as a trainer keeps them."""
    rows, width = sizes["rows"], sizes["width"]
    every = {
        "x": maker.normal(rows, width) + 0.5,
        "residual": maker.normal(rows, width),
        "weight": maker.normal(width, scale=0.5, dtype=torch.float32),
        "bias": maker.normal(width, dtype=torch.float32),
    }
    return Example({**{name: every[name] for name in names}, "eps": _EPS}, names)


def rms_norm(maker: Maker, sizes: Sizes) -> Example:
    """Of rms_norm and offset_rms_norm."""
    return _made(maker, sizes, "x", "weight")


def layer_norm(maker: Maker, sizes: Sizes) -> Example:
    """Of layer_norm."""
    return _made(maker, sizes, "x", "weight", "bias")


def add_rms_norm(maker: Maker, sizes: Sizes) -> Example:
    """Of add_rms_norm and add_offset_rms_norm."""
    return _made(maker, sizes, "x", "residual", "weight")


def add_layer_norm(maker: Maker, sizes: Sizes) -> Example:
    """Of add_layer_norm."""
    return _made(maker, sizes, "x", "residual", "weight", "bias")
