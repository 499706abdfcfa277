"""Tokens to the order of their experts and back, stable and the same in every run.

The plain reference only gathers, forward and backward: an index_add would sum in whatever order threads arrive on a
GPU. The Triton programs write each row from one place, and add up in the order of the choices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import expect
from .switch import runs_fast

_NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Permutation:
    """Rows are pairs of a token and one of its choices, expert after expert.

    `order` int64 [rows]: which pair (token x top_k + choice) stands in a row. `inverse` int64 [pairs]: in which row
    a pair stands. `counts` int64 [experts]: rows of each expert. `choices`: top_k. With `gaps` some rows hold no pair
    and some pairs have no row: -1.
    """

    order: Tensor
    inverse: Tensor
    counts: Tensor
    choices: int
    gaps: bool = False


def sort_by_expert(experts: Tensor, count: int) -> Permutation:
    """The permutation for the choices `experts` int64 [tokens, top_k], each below `count`: in each expert by token."""
    expect.dtype("sort_by_expert", "experts", experts, torch.int64)
    tokens, choices = experts.shape
    if runs_fast("sort_by_expert", experts, tokens=tokens, choices=choices, experts=count):
        from .fast.permute import sort

        return Permutation(*sort(experts, count), choices)
    return Permutation(*sort_reference(experts, count), choices)


def sort_reference(experts: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Order, inverse and counts of `Permutation` in plain PyTorch."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    return order, _inverse(order), _histogram(flat, count)


def slots_by_expert(experts: Tensor, priority: Tensor, count: int, capacity: int) -> Permutation:
    """As `sort_by_expert`, with `capacity` rows for every expert: pairs of the highest `priority` [tokens, top_k] get
    them, of equal ones the first tokens; the others get none. Sizes do not depend on values."""
    flat = experts.flatten()
    by_priority = priority.flatten().argsort(descending=True, stable=True)
    sorted_pairs = by_priority[flat[by_priority].argsort(stable=True)]
    counts = _histogram(flat, count)
    place = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[flat[sorted_pairs]]
    kept = place < capacity
    spare = count * capacity  # a row for those without one
    row = torch.where(kept, flat[sorted_pairs] * capacity + place, spare)
    order = torch.full((spare + 1,), _NOWHERE, device=flat.device).scatter_(0, row, sorted_pairs)[:spare]
    inverse = torch.empty_like(flat).scatter_(0, sorted_pairs, torch.where(kept, row, _NOWHERE))
    return Permutation(order, inverse, torch.full_like(counts, capacity), experts.shape[-1], gaps=True)


def permute(tokens: Tensor, to: Permutation) -> Tensor:
    """Tokens [tokens, hidden] copied to the rows [rows, hidden] of their choices; zeros to rows without a pair."""
    return _spread(tokens, to.order, to.inverse, to.choices, to.gaps)


def unpermute(rows: Tensor, weights: Tensor, to: Permutation) -> Tensor:
    """Sum the rows [rows, hidden] of every token, each times its weight of [tokens, top_k].

    Sums are taken in the wider of both types; returns [tokens, hidden] in that of the rows.
    """
    rows_of = to.inverse.view(weights.shape)
    if _runs_fast("unpermute", rows, len(weights), weights.shape[1], len(to.counts)):
        from .fast.permute import collect_rows

        return collect_rows(rows, weights, rows_of, to.gaps)
    return _weighted(restore(rows, to), weights, rows.dtype)


def restore(rows: Tensor, to: Permutation) -> Tensor:
    """Rows [rows, hidden] in the order of the pairs [pairs, hidden]; zeros for pairs without a row."""
    return _spread(rows, to.inverse, to.order, 1, to.gaps)


def spread_reference(tokens: Tensor, rows_of: Tensor, rows: int, gaps: bool) -> Tensor:
    """Tokens [tokens, hidden] copied to the rows that int64 `rows_of` [tokens, choices] names, in plain PyTorch; no two
    are equal. `gaps`: some rows have no token and become zeros, some choices have no row (below zero)."""
    return _gather(tokens, _sources(rows_of, rows), rows_of.flatten(), rows_of.shape[-1], gaps)


def collect_reference(rows: Tensor, weights: Tensor, rows_of: Tensor, gaps: bool) -> Tensor:
    """The sum of the rows [rows, hidden] that `rows_of` [tokens, choices] names, each times its weight, in plain
    PyTorch: [tokens, hidden]."""
    pairs = _gather(rows, rows_of.flatten(), _sources(rows_of, len(rows)), 1, gaps)
    return _weighted(pairs, weights, rows.dtype)


def _weighted(pairs: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Pairs [tokens x choices, hidden] times their weights, added up over the choices."""
    return (pairs.view(*weights.shape, pairs.shape[-1]) * weights.unsqueeze(-1)).sum(1).to(dtype)


def _sources(rows_of: Tensor, rows: int) -> Tensor:
    """Which pair goes to each row; nowhere where none does."""
    flat = rows_of.flatten()
    spare = torch.where(flat < 0, rows, flat)
    found = torch.full((rows + 1,), _NOWHERE, device=flat.device)
    return found.scatter_(0, spare, torch.arange(len(flat), device=flat.device))[:rows]


def _spread(x: Tensor, index: Tensor, back: Tensor, choices: int, gaps: bool) -> Tensor:
    """x[index // choices], where `back` [len(x) x choices] says to which rows each of `x` goes."""
    if _runs_fast("permute", x, len(x), choices, 1):
        from .fast.permute import spread_rows

        return spread_rows(x, back.view(len(x), choices), len(index), gaps)
    return _gather(x, index, back, choices, gaps)


def _runs_fast(name: str, x: Tensor, tokens: int, choices: int, experts: int) -> bool:
    return runs_fast(name, x, tokens=tokens, choices=choices, experts=max(1, experts), width=x.shape[-1])


def _inverse(order: Tensor) -> Tensor:
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def _histogram(values: Tensor, count: int) -> Tensor:
    """How often each number below `count` occurs, without asking the host as bincount does."""
    return torch.zeros(count, dtype=torch.int64, device=values.device).scatter_add_(0, values, torch.ones_like(values))


def _take(x: Tensor, index: Tensor, gaps: bool) -> Tensor:
    """x[index], and zeros where the index is nowhere."""
    if not gaps:
        return x[index]
    if len(x) == 0:
        return x.new_zeros(len(index), *x.shape[1:])
    return x[index.clamp(min=0)].masked_fill((index < 0).unsqueeze(-1), 0.0)


class _Gather(torch.autograd.Function):
    """x[index // choices]; its gradient is gathered by `back`, and added up over the choices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, choices: int, gaps: bool) -> Tensor:
        ctx.save_for_backward(back)
        ctx.choices, ctx.gaps = choices, gaps
        return _take(x, index.div(choices, rounding_mode="floor"), gaps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (back,) = ctx.saved_tensors
        pairs = _take(gradients[0], back, ctx.gaps)
        summed = pairs if ctx.choices == 1 else pairs.view(-1, ctx.choices, pairs.shape[-1]).sum(1)
        return summed, None, None, None, None


_gather: Callable[[Tensor, Tensor, Tensor, int, bool], Tensor] = _Gather.apply
