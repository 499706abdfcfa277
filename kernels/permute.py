"""Tokens to the order of their experts and back: the plain reference, stable and the same in every run.

Both directions only gather, forward and backward: an index_add would sum in whatever order threads arrive on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Permutation:
    """Rows are the pairs of a token and one of its choices, expert after expert, in each by token.

    `order` int64 [rows]: which pair (token x top_k + choice) stands in a row. `inverse` int64 [rows]: in which row
    a pair stands. `counts` int64 [experts]: rows of each expert. `choices`: top_k.
    """

    order: Tensor
    inverse: Tensor
    counts: Tensor
    choices: int


def sort_by_expert(experts: Tensor, count: int) -> Permutation:
    """The permutation for the choices `experts` int64 [tokens, top_k], each below `count`."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    counts = torch.zeros(count, dtype=torch.int64, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat))
    return Permutation(order, inverse, counts, experts.shape[-1])


def permute(tokens: Tensor, to: Permutation) -> Tensor:
    """Tokens [tokens, hidden] copied to the rows [tokens x top_k, hidden] of their choices."""
    return _permute(tokens, to.order, to.inverse, to.choices)


def unpermute(rows: Tensor, weights: Tensor, to: Permutation) -> Tensor:
    """Sum the rows [tokens x top_k, hidden] of every token, each times its weight of [tokens, top_k].

    Sums are taken in the wider of both types; returns [tokens, hidden] in that of the rows.
    """
    pairs = reorder(rows, to.inverse, to.order).view(*weights.shape, -1)
    return (pairs * weights.unsqueeze(-1)).sum(1).to(rows.dtype)


def reorder(rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """`rows[index]` for a permutation `index` and its `inverse`, whose gradient is a gather too."""
    return _reorder(rows, index, inverse)


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, order: Tensor, inverse: Tensor, choices: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.choices = choices
        return tokens[order // choices]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        pairs = gradients[0][inverse].view(-1, ctx.choices, gradients[0].shape[-1])
        return pairs.sum(1), None, None, None


class _Reorder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows[index]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradients[0][inverse], None, None


_permute: Callable[[Tensor, Tensor, Tensor, int], Tensor] = _Permute.apply
_reorder: Callable[[Tensor, Tensor, Tensor], Tensor] = _Reorder.apply
