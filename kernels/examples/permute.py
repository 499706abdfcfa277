"""Arguments of sorting by expert, and of bringing rows there and back."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernel import Sizes
from .example import Example, Maker


def sort(maker: Maker, sizes: Sizes) -> Example:
    """Experts drawn alike."""
    experts = maker.integers(0, sizes["experts"], sizes["tokens"], sizes["choices"])
    return Example({"experts": experts, "count": sizes["experts"]}, ())


def spread(maker: Maker, sizes: Sizes) -> Example:
    """Tokens, and the rows that a sort gives them."""
    tokens = maker.normal(sizes["tokens"], sizes["width"])
    rows_of = _rows_of(maker, sizes)
    return Example({"tokens": tokens, "rows_of": rows_of, "rows": rows_of.numel(), "gaps": False}, ("tokens",))


def collect(maker: Maker, sizes: Sizes) -> Example:
    """Rows, weights in float32, as routers give them, and places."""
    rows = maker.normal(sizes["tokens"] * sizes["choices"], sizes["width"])
    weights = maker.normal(sizes["tokens"], sizes["choices"], dtype=torch.float32)
    arguments = {"rows": rows, "weights": weights, "rows_of": _rows_of(maker, sizes), "gaps": False}
    return Example(arguments, ("rows", "weights"))


def _rows_of(maker: Maker, sizes: Sizes) -> Tensor:
    flat = maker.integers(0, sizes["experts"], sizes["tokens"] * sizes["choices"])
    return flat.argsort(stable=True).argsort().view(sizes["tokens"], sizes["choices"])
