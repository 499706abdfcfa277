"""Arguments of quantising, of reading what was quantised, and of adding it up."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..facts.quantise import BLOCK, GRIDS
from ..kernel import Sizes
from ..quantise import quantise_reference
from .example import Example, Maker


def _numbers(maker: Maker, sizes: Sizes, dtype: torch.dtype | None = None) -> Tensor:
    """Blocks of very different sizes, among them zeros."""
    parts, elements = sizes["parts"], sizes["elements"]
    drawn = maker.normal(parts, elements, dtype=dtype)
    place = torch.arange(elements, device=maker.device) // BLOCK
    return drawn * (2.0 ** (place % 5 - 2) * (place % 7 != 3)).to(drawn.dtype)


def _quantise(maker: Maker, sizes: Sizes, *, format: str) -> Example:
    return Example({"x": _numbers(maker, sizes)}, ())


def _feedback(maker: Maker, sizes: Sizes, *, format: str) -> Example:
    residual = maker.normal(sizes["parts"], sizes["elements"], scale=0.01, dtype=torch.float32)
    return Example({"x": _numbers(maker, sizes), "residual": residual}, ())


def _coded(maker: Maker, sizes: Sizes, format: str) -> dict[str, Any]:
    codes, scales = quantise_reference(_numbers(maker, sizes, torch.float32), format)
    return {"codes": codes, "scales": scales}


def _dequantise(maker: Maker, sizes: Sizes, *, format: str) -> Example:
    return Example(_coded(maker, sizes, format) | {"dtype": maker.dtype}, ())


def _reduce(maker: Maker, sizes: Sizes, *, format: str) -> Example:
    return Example(_coded(maker, sizes, format), ())


def _requantise(maker: Maker, sizes: Sizes, *, format: str) -> Example:
    residual = maker.normal(1, sizes["elements"], scale=0.01, dtype=torch.float32)
    return Example(_coded(maker, sizes, format) | {"residual": residual}, ())


quantise_int8, quantise_e4m3, quantise_e5m2 = (partial(_quantise, format=each) for each in GRIDS)
quantise_feedback_int8, quantise_feedback_e4m3, quantise_feedback_e5m2 = (partial(_feedback, format=e) for e in GRIDS)
dequantise_int8, dequantise_e4m3, dequantise_e5m2 = (partial(_dequantise, format=each) for each in GRIDS)
reduce_int8, reduce_e4m3, reduce_e5m2 = (partial(_reduce, format=each) for each in GRIDS)
requantise_int8, requantise_e4m3, requantise_e5m2 = (partial(_requantise, format=each) for each in GRIDS)
