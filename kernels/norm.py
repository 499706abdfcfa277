"""Normalisation of vectors: by root mean square (arXiv:1910.07467), or to zero mean and unit variance (1607.06450)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale every vector of `x` [..., hidden] to unit root mean square, then by `weight` [hidden].

    Statistics are taken in float32 and the result is cast back before it is scaled, as in Llama.
    """
    wide = x.float()
    inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight.to(x.dtype) * (wide * inverse).to(x.dtype)


def offset_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `rms_norm`, scaled by 1 + `weight` and all of it in float32, as in Gemma."""
    wide = x.float()
    inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * inverse * (1.0 + weight.float())).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Bring every vector of `x` [..., hidden] to mean zero and variance one, then times `weight` plus `bias` [hidden].

    Statistics are taken in float32, also of bfloat16 input.
    """
    return F.layer_norm(x, weight.shape, weight.to(x.dtype), bias.to(x.dtype), eps)
