"""Norm: root mean square or LayerNorm, as the family has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...kernels.norm import (
    add_layer_norm,
    add_offset_rms_norm,
    add_rms_norm,
    layer_norm,
    offset_rms_norm,
    rms_norm,
)
from .shape import NormKind


class Norm(nn.Module):
    """Normalises the last dimension.

    `unit`: the entries stand in units of this width that are shared out over ranks, although the norm is over all of
    them (None: they are not).
    """

    def __init__(self, width: int, eps: float, kind: NormKind = "rms", unit: int | None = None):
        super().__init__()
        self.eps, self.kind, self.unit = eps, kind, unit
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if kind == "layer" else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The norm of `x`; or with a residual that of the sum, and the sum."""
        if residual is not None:
            return add_normalise(x, residual, self.weight, self.bias, self.eps, self.kind)
        return normalise(x, self.weight, self.bias, self.eps, self.kind)


def normalise(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, kind: NormKind) -> Tensor:
    """The norm of this kind of `x` [..., width]; only LayerNorm has a bias."""
    if kind == "offset":
        return offset_rms_norm(x, weight, eps)
    return rms_norm(x, weight, eps) if bias is None else layer_norm(x, weight, bias, eps)


def add_normalise(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, kind: NormKind
) -> tuple[Tensor, Tensor]:
    """The norm of x + residual, and that sum."""
    if kind == "offset":
        return add_offset_rms_norm(x, residual, weight, eps)
    if bias is None:
        return add_rms_norm(x, residual, weight, eps)
    return add_layer_norm(x, residual, weight, bias, eps)
