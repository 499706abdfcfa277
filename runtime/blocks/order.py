"""Order: hidden states that stand in another order than their sequence, and back.

An order is int64 [batch, 2, seq_len]: the position in its sequence of each slot, and the slot of each position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def to_sequence(x: Tensor, order: Tensor) -> Tensor:
    """[batch, seq_len, width] in slots to the order of the sequence."""
    return _reordered(x, order[:, 1], order[:, 0])


def to_slots(x: Tensor, order: Tensor) -> Tensor:
    """The way back."""
    return _reordered(x, order[:, 0], order[:, 1])


class _Reordered(torch.autograd.Function):
    """Row `source[b, i]` of sequence b to its place i; gradients go back by the inverse, and are never added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return _rows(x, source)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return _rows(gradients[0], inverse), None, None


def _rows(x: Tensor, source: Tensor) -> Tensor:
    first = torch.arange(len(x), device=x.device).unsqueeze(1) * x.shape[1]
    return x.flatten(0, 1).index_select(0, (source + first).flatten()).view_as(x)


_reordered: Callable[[Tensor, Tensor, Tensor], Tensor] = _Reordered.apply
