"""Normalisation of vectors: by root mean square (arXiv:1910.07467), or to zero mean and unit variance (1607.06450).

The forms that begin with `add` add a residual first, and give the norm of the sum and the sum: one pass, not two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import expect
from .switch import runs_fast


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale every vector of `x` [..., hidden] to unit root mean square, then by `weight` [hidden].

    Statistics are taken in float32 and the result is cast back before it is scaled, as in Llama.
    """
    if _runs_fast("rms_norm", x, None, weight, None):
        from .fast import norm as fast

        return fast.rms_norm(x, weight, eps)
    return rms_norm_reference(x, weight, eps)


def offset_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `rms_norm`, scaled by 1 + `weight` and all of it in float32, as in Gemma."""
    if _runs_fast("offset_rms_norm", x, None, weight, None):
        from .fast import norm as fast

        return fast.offset_rms_norm(x, weight, eps)
    return offset_rms_norm_reference(x, weight, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Bring every vector of `x` [..., hidden] to mean zero and variance one, then times `weight` plus `bias` [hidden].

    Statistics are taken in float32, also of bfloat16 input.
    """
    if _runs_fast("layer_norm", x, None, weight, bias):
        from .fast import norm as fast

        return fast.layer_norm(x, weight, bias, eps)
    return layer_norm_reference(x, weight, bias, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`rms_norm` of x + residual, and that sum, each [..., hidden]."""
    if _runs_fast("add_rms_norm", x, residual, weight, None):
        from .fast import norm as fast

        return fast.add_rms_norm(x, residual, weight, eps)
    return add_rms_norm_reference(x, residual, weight, eps)


def add_offset_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`offset_rms_norm` of x + residual, and that sum, each [..., hidden]."""
    if _runs_fast("add_offset_rms_norm", x, residual, weight, None):
        from .fast import norm as fast

        return fast.add_offset_rms_norm(x, residual, weight, eps)
    return add_offset_rms_norm_reference(x, residual, weight, eps)


def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`layer_norm` of x + residual, and that sum, each [..., hidden]."""
    if _runs_fast("add_layer_norm", x, residual, weight, bias):
        from .fast import norm as fast

        return fast.add_layer_norm(x, residual, weight, bias, eps)
    return add_layer_norm_reference(x, residual, weight, bias, eps)


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` in plain PyTorch."""
    wide = _wide(x)
    inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight.to(x.dtype) * (wide * inverse).to(x.dtype)


def offset_rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`offset_rms_norm` in plain PyTorch."""
    wide = _wide(x)
    inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * inverse * (1.0 + weight.to(wide.dtype))).to(x.dtype)


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`layer_norm` in plain PyTorch."""
    return F.layer_norm(x, weight.shape, weight.to(x.dtype), bias.to(x.dtype), eps)


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`add_rms_norm` in plain PyTorch."""
    total = x + residual
    return rms_norm_reference(total, weight, eps), total


def add_offset_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`add_offset_rms_norm` in plain PyTorch."""
    total = x + residual
    return offset_rms_norm_reference(total, weight, eps), total


def add_layer_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`add_layer_norm` in plain PyTorch."""
    total = x + residual
    return layer_norm_reference(total, weight, bias, eps), total


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _runs_fast(name: str, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None) -> bool:
    """Check arguments; say whether Triton takes them. Weights may be of any type that Triton reads."""
    expect.dims(name, "x", x, 1)
    for label, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            expect.shape(name, label, vector, x.shape[-1:])
    if residual is not None:
        expect.shape(name, "residual", residual, x.shape)
        expect.dtype(name, "residual", residual, x.dtype)
    expect.floating(name, x=x, weight=weight, bias=bias)
    expect.one_device(name, x=x, residual=residual, weight=weight, bias=bias)
    if weight.dtype == torch.float64 or (bias is not None and bias.dtype == torch.float64):
        return False
    return runs_fast(name, x, rows=x.shape[:-1].numel(), width=x.shape[-1])
