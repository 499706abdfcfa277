"""Sorting by expert, and rows brought there and back, by Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernel import Sizes
from ..programs.permute import collect, collect_backward, places, ranks, spread
from ..programs.program import Program, program
from . import memory
from .launch import launch, power_of_two

_SORTED = {"BLOCK": 128}  # pairs of a program, each compared with all others: 16 thousand comparisons
_SORT_WARPS = 8
_COLUMNS = 1024  # of a program: 8 a thread, 128 bits of two bytes each
_WARPS = 4


def sort(experts: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.permute.sort_reference`. An expert that is not there gets no row, and its pairs -1."""
    order, inverse, counts = _sort(experts, count)
    return order, inverse, counts


def spread_rows(tokens: Tensor, rows_of: Tensor, rows: int, gaps: bool) -> Tensor:
    """As `kernels.permute.spread_reference`."""
    found: Tensor = _spread(tokens, rows_of, rows, gaps)
    return found


def collect_rows(rows: Tensor, weights: Tensor, rows_of: Tensor, gaps: bool) -> Tensor:
    """As `kernels.permute.collect_reference`."""
    found: Tensor = _weighted(rows, weights, rows_of, gaps)
    return found


@torch.library.custom_op("meshwright::sort_by_expert", mutates_args=())
def _sort(experts: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    flat = experts.contiguous().flatten()
    pairs, blocks = len(flat), -(-len(flat) // _SORTED["BLOCK"])
    in_blocks = memory.empty((count, blocks), flat).zero_()
    order, inverse = memory.empty((pairs,), flat).fill_(-1), memory.empty((pairs,), flat)
    launch(ranks, blocks, (flat, inverse, in_blocks, pairs, blocks, count), _SORTED, _SORT_WARPS)
    ends = in_blocks.flatten().cumsum(0)
    launch(places, blocks, (flat, ends, in_blocks, order, inverse, pairs, blocks), _SORTED, _SORT_WARPS)
    return order, inverse, in_blocks.sum(1)


@_sort.register_fake
def _(experts: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    pairs = experts.numel()
    return experts.new_empty(pairs), experts.new_empty(pairs), experts.new_empty(count)


def _rows(x: Tensor) -> Tensor:
    """Neighbours in a row are neighbours in memory."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def _shape(choices: int, width: int) -> dict[str, int]:
    return {"CHOICES": choices, "WIDTH": width, "BLOCK": max(16, min(power_of_two(width), _COLUMNS))}


def _programs_of(tokens: int, constants: dict[str, int]) -> int:
    return tokens * -(-constants["WIDTH"] // constants["BLOCK"])


def _place(sizes: tuple[int, ...], like: Tensor, gaps: bool) -> Tensor:
    """Rows that no token writes to are zero."""
    found = memory.empty(sizes, like)
    return found.zero_() if gaps else found


@torch.library.custom_op("meshwright::spread_rows", mutates_args=())
def _spread(tokens: Tensor, rows_of: Tensor, rows: int, gaps: bool) -> Tensor:
    tokens, rows_of = _rows(tokens), rows_of.contiguous()
    constants = _shape(rows_of.shape[-1], tokens.shape[-1])
    found = _place((rows, tokens.shape[-1]), tokens, gaps)
    launch(spread, _programs_of(len(tokens), constants), (tokens, rows_of, found, tokens.stride(0)), constants, _WARPS)
    return found


@_spread.register_fake
def _(tokens: Tensor, rows_of: Tensor, rows: int, gaps: bool) -> Tensor:
    return tokens.new_empty(rows, tokens.shape[-1])


@torch.library.custom_op("meshwright::collect_rows", mutates_args=())
def _collect(rows: Tensor, weights: Tensor | None, rows_of: Tensor) -> Tensor:
    rows, rows_of = _rows(rows), rows_of.contiguous()
    constants = _shape(rows_of.shape[-1], rows.shape[-1])
    found = memory.empty((len(rows_of), rows.shape[-1]), rows)
    factors = rows if weights is None else weights.contiguous()
    arguments = (rows, factors, rows_of, found, rows.stride(0))
    flags = {"WEIGHTED": weights is not None}
    launch(collect, _programs_of(len(rows_of), constants), arguments, constants | flags, _WARPS)
    return found


@_collect.register_fake
def _(rows: Tensor, weights: Tensor | None, rows_of: Tensor) -> Tensor:
    return rows.new_empty(len(rows_of), rows.shape[-1])


@torch.library.custom_op("meshwright::collect_weighted", mutates_args=())
def _weighted(rows: Tensor, weights: Tensor, rows_of: Tensor, gaps: bool) -> Tensor:
    found: Tensor = _collect(rows, weights, rows_of)
    return found


@_weighted.register_fake
def _(rows: Tensor, weights: Tensor, rows_of: Tensor, gaps: bool) -> Tensor:
    return rows.new_empty(len(rows_of), rows.shape[-1])


@torch.library.custom_op("meshwright::collect_backward", mutates_args=())
def _collect_backward(
    gradient: Tensor, rows: Tensor, weights: Tensor, rows_of: Tensor, gaps: bool
) -> tuple[Tensor, Tensor]:
    gradient, rows, weights, rows_of = _rows(gradient), _rows(rows), weights.contiguous(), rows_of.contiguous()
    to_rows, to_weights = _place(tuple(rows.shape), rows, gaps), memory.empty(weights.shape, weights)
    strides = (gradient.stride(0), rows.stride(0))
    arguments = (gradient, rows, weights, rows_of, to_rows, to_weights, *strides)
    launch(collect_backward, rows_of.numel(), arguments, _shape(rows_of.shape[-1], rows.shape[-1]), _WARPS)
    return to_rows, to_weights


@_collect_backward.register_fake
def _(gradient: Tensor, rows: Tensor, weights: Tensor, rows_of: Tensor, gaps: bool) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape), weights.new_empty(weights.shape)


def _save_places(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _spread_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    return _collect(gradient, None, *ctx.saved_tensors), None, None, None


def _save_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.gaps = inputs[3]


def _weighted_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
    to_rows, to_weights = _collect_backward(gradient, *ctx.saved_tensors, ctx.gaps)
    return to_rows, to_weights, None, None


_spread.register_autograd(_spread_backward, setup_context=_save_places)
_weighted.register_autograd(_weighted_backward, setup_context=_save_rows)


def sort_programs(sizes: Sizes, dtype: str) -> list[Program]:
    """As they are launched for these sizes."""
    pointers = dict.fromkeys(("experts", "inverse", "counts", "ends", "order"), "int64")
    types = pointers | dict.fromkeys(("pairs", "blocks", "experts_count"), "i32")
    return [
        program("ranks", ranks, _SORTED, _SORT_WARPS, types, loads=False, stores=False),
        program("places", places, _SORTED, _SORT_WARPS, types, loads=False, stores=False),
    ]


def _types(dtype: str) -> dict[str, str]:
    rows = dict.fromkeys(("x", "rows", "to", "gradient", "to_rows"), dtype)
    strides = dict.fromkeys(("x_stride", "rows_stride", "gradient_stride"), "i32:16")
    return rows | strides | {"rows_of": "int64", "weights": "fp32", "to_weights": "fp32"}


def spread_programs(sizes: Sizes, dtype: str) -> list[Program]:
    """As they are launched for these sizes, forward and backward."""
    constants, types = _shape(sizes["choices"], sizes["width"]), _types(dtype)
    back = constants | {"WEIGHTED": False}
    return [
        program("spread", spread, constants, _WARPS, types),
        program("collect", collect, back, _WARPS, types),
    ]


def collect_programs(sizes: Sizes, dtype: str) -> list[Program]:
    """As they are launched for these sizes, forward and backward."""
    constants, types = _shape(sizes["choices"], sizes["width"]), _types(dtype)
    return [
        program("collect", collect, constants | {"WEIGHTED": True}, _WARPS, types),
        program("collect_backward", collect_backward, constants, _WARPS, types),
    ]
