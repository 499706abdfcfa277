"""Narrow: a weight in the type of the activations, for several products in one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

Matrix = Callable[[], Tensor]
"""A weight, for one product."""


def narrowed(weight: Tensor, dtype: torch.dtype) -> Matrix:
    """`weight` in `dtype`: one copy serves all products, and stays for their gradients; these are added up in the type
    of the weight, as a cast for each product would have it."""
    if weight.dtype == dtype:
        return lambda: weight
    return partial(_share, weight, weight.detach().to(dtype))


class _Share(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, narrow: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return narrow.view_as(narrow)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to(ctx.dtype), None


_share: Callable[[Tensor, Tensor], Tensor] = _Share.apply
