"""Norms, by Triton."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..facts.norm import WIDE_ROW
from ..kernel import Sizes
from ..programs.norm import norm_backward, norm_forward, norm_weights
from ..programs.program import Program, program
from . import memory
from .launch import launch, multiprocessors, power_of_two

_KINDS = {"rms_norm": 0, "offset_rms_norm": 1, "layer_norm": 2}
_LAYER = 2
_ENTRIES = 4096  # of a block of rows that are narrower
_THREAD_ENTRIES = 16
_PROGRAMS = 2  # a multiprocessor: as many partial rows of gradients of weights
_COLUMNS, _COLUMN_WARPS, _WEIGHT_PROGRAMS = {"ROWS": 8, "BLOCK": 256}, 4, 4  # of programs that sum wide rows up


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `kernels.norm.rms_norm`."""
    return _normed(x, weight, None, eps, 0)


def offset_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `kernels.norm.offset_rms_norm`."""
    return _normed(x, weight, None, eps, 1)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """As `kernels.norm.layer_norm`."""
    return _normed(x, weight, bias, eps, _LAYER)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `kernels.norm.add_rms_norm`."""
    return _added(x, residual, weight, None, eps, 0)


def add_offset_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `kernels.norm.add_offset_rms_norm`."""
    return _added(x, residual, weight, None, eps, 1)


def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `kernels.norm.add_layer_norm`."""
    return _added(x, residual, weight, bias, eps, _LAYER)


def _normed(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, kind: int) -> Tensor:
    found: Tensor = _norm(x, None, weight, bias, eps, kind)[0]
    return found


def _added(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, kind: int
) -> tuple[Tensor, Tensor]:
    normed, total, _, _ = _norm(x, residual, weight, bias, eps, kind)
    return normed, total


def _shape(width: int) -> tuple[dict[str, int], int]:
    """Rows and columns of a block, and warps for it."""
    block = power_of_two(width)
    rows = max(1, min(_ENTRIES // block, 64))
    warps = max(4, min(rows * block // (32 * _THREAD_ENTRIES), 32))
    return {"ROWS": rows, "BLOCK": block}, warps


def _backward_warps(width: int) -> int:
    """With 32 warps a thread has 64 registers, and LayerNorm's gradient of wide rows spills on sm_90."""
    return min(_shape(width)[1], 16)


@torch.library.custom_op("meshwright::norm", mutates_args=())
def _norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, kind: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The norm, the sum (empty without a residual), mean (empty but for LayerNorm) and inverse deviation of rows."""
    rows = memory.Rows.of(x)
    matrix, other = rows.matrix(x), None if residual is None else rows.matrix(residual)
    normed, total, mean, inverse = _results(matrix, residual is not None, kind)
    constants, warps = _shape(x.shape[-1])
    sizes = (len(matrix), x.shape[-1], matrix.stride(0), 0 if other is None else other.stride(0), eps)
    arguments = (matrix, _or(other, matrix), weight, _or(bias, weight), normed, total, mean, inverse, *sizes)
    flags = {"KIND": kind, "ADDED": residual is not None}
    launch(norm_forward, -(-len(matrix) // constants["ROWS"]), arguments, flags | constants, warps)
    return rows.restore(normed), rows.restore(total) if residual is not None else total, mean, inverse


def _results(matrix: Tensor, added: bool, kind: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = len(matrix)
    total = memory.empty(matrix.shape if added else (0,), matrix)
    mean = memory.empty((count if kind == _LAYER else 0,), matrix, torch.float32)
    return memory.empty(matrix.shape, matrix), total, mean, memory.empty((count,), matrix, torch.float32)


def _or(x: Tensor | None, other: Tensor) -> Tensor:
    """A program that does not look at an argument still wants a pointer."""
    return other if x is None else x


@_norm.register_fake
def _(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, kind: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = memory.Rows.of(x)
    normed, total, mean, inverse = _results(rows.matrix(x), residual is not None, kind)
    return rows.restore(normed), rows.restore(total) if residual is not None else total, mean, inverse


@torch.library.custom_op("meshwright::norm_backward", mutates_args=())
def _norm_backward(
    gradient: Tensor,
    sum_gradient: Tensor | None,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    inverse: Tensor,
    kind: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `x` (of what was normalised), weight and bias (empty but for LayerNorm), these two in float32."""
    rows = memory.Rows.of(x)
    matrix, slopes, others = (None if each is None else rows.matrix(each) for each in (x, gradient, sum_gradient))
    assert matrix is not None
    assert slopes is not None
    to_x, partial_rows = memory.empty(matrix.shape, x), _partial(_parts(matrix), matrix, kind)
    _launch_backward(slopes, others, matrix, (weight, mean, inverse), (to_x, *partial_rows), kind)
    if matrix.shape[-1] > WIDE_ROW:
        _launch_weights(slopes, matrix, (mean, inverse), partial_rows, kind)
    to_weight, to_bias = (each.sum(0) for each in partial_rows)
    return rows.restore(to_x), to_weight, to_bias


def _parts(matrix: Tensor) -> int:
    """How many partial rows the gradient of the weight is made of."""
    width, programs = matrix.shape[-1], _PROGRAMS * multiprocessors(matrix)
    if width <= WIDE_ROW:
        return min(-(-len(matrix) // _shape(width)[0]["ROWS"]), programs)
    blocks = -(-width // _COLUMNS["BLOCK"])
    return min(-(-len(matrix) // _COLUMNS["ROWS"]), max(1, _WEIGHT_PROGRAMS * programs // blocks))


def _launch_backward(
    slopes: Tensor,
    others: Tensor | None,
    matrix: Tensor,
    kept: tuple[Tensor, Tensor, Tensor],
    to: tuple[Tensor, Tensor, Tensor],
    kind: int,
) -> None:
    """All of it, or without the sums over wide rows. `kept`: weight, mean, inverse; `to`: where gradients go."""
    rows, width = matrix.shape
    constants, warps = _shape(width)[0], _backward_warps(width)
    summed = width <= WIDE_ROW
    count = len(to[1]) if summed else min(rows, 4 * _PROGRAMS * multiprocessors(matrix))
    strides = (slopes.stride(0), 0 if others is None else others.stride(0), matrix.stride(0))
    arguments = (slopes, _or(others, slopes), matrix, *kept, *to, rows, width, *strides)
    flags = {"KIND": kind, "ADDED": others is not None, "SUMMED": summed}
    launch(norm_backward, count, arguments, flags | constants, warps)


def _launch_weights(
    slopes: Tensor, matrix: Tensor, kept: tuple[Tensor, Tensor], to: tuple[Tensor, Tensor], kind: int
) -> None:
    rows, width = matrix.shape
    parts = len(to[0])
    arguments = (slopes, matrix, *kept, *to, rows, width, slopes.stride(0), matrix.stride(0), parts)
    programs = parts * -(-width // _COLUMNS["BLOCK"])
    launch(norm_weights, programs, arguments, {"KIND": kind, **_COLUMNS}, _COLUMN_WARPS)


def _partial(count: int, matrix: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """Where programs add up the gradients of weight and bias."""
    width = matrix.shape[-1]
    return (
        memory.empty((count, width), matrix, torch.float32),
        memory.empty((count, width if kind == _LAYER else 0), matrix, torch.float32),
    )


@_norm_backward.register_fake
def _(gradient: Tensor, sum_gradient: Tensor | None, x: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    kind = given[-1]
    rows = memory.Rows.of(x)
    to_weight, to_bias = (each.sum(0) for each in _partial(1, rows.matrix(x), kind))
    return rows.restore(memory.empty(rows.matrix(x).shape, x)), to_weight, to_bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    x, residual, weight, bias, _, kind = inputs
    _, total, mean, inverse = output
    ctx.save_for_backward(x if residual is None else total, weight, mean, inverse)
    ctx.added, ctx.bias, ctx.kind = residual is not None, None if bias is None else bias.dtype, kind
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, mean, inverse = ctx.saved_tensors
    slope, sum_slope = gradients[0], gradients[1] if ctx.added else None
    slope = torch.zeros_like(x) if slope is None else slope
    to_x, to_weight, to_bias = _norm_backward(slope, sum_slope, x, weight, mean, inverse, ctx.kind)
    bias = None if ctx.bias is None else to_bias.to(ctx.bias)
    return to_x, to_x if ctx.added else None, to_weight.to(weight.dtype), bias, None, None


_norm.register_autograd(_differentiate, setup_context=_save)


def _programs(name: str, added: bool, sizes: Sizes, dtype: str) -> list[Program]:
    kind, width = _KINDS[name], sizes["width"]
    wide = ("weight", "bias", "mean", "inverse", "to_weight", "to_bias")
    narrow = ("x", "residual", "normed", "total", "gradient", "sum_gradient", "to_x")
    strides = ("width", "x_stride", "residual_stride", "gradient_stride", "sum_stride")
    types = dict.fromkeys(wide, "fp32") | dict.fromkeys(narrow, dtype) | dict.fromkeys(strides, "i32:16")
    types |= {"rows": "i32", "parts": "i32", "eps": "fp32 value"}
    constants, warps = _shape(width)
    flags = {"KIND": kind, "ADDED": added}
    back = flags | {"SUMMED": width <= WIDE_ROW}
    found = [
        program("norm_forward", norm_forward, flags | constants, warps, types),
        program("norm_backward", norm_backward, back | constants, _backward_warps(width), types),
    ]
    if width > WIDE_ROW:
        columns = {"KIND": kind, **_COLUMNS}
        found.append(program("norm_weights", norm_weights, columns, _COLUMN_WARPS, types, stores=False))
    return found


rms_norm_programs = partial(_programs, "rms_norm", False)
add_rms_norm_programs = partial(_programs, "rms_norm", True)
offset_rms_norm_programs = partial(_programs, "offset_rms_norm", False)
add_offset_rms_norm_programs = partial(_programs, "offset_rms_norm", True)
layer_norm_programs = partial(_programs, "layer_norm", False)
add_layer_norm_programs = partial(_programs, "layer_norm", True)
