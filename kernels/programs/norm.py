"""Triton programs of norms, with and without the residual that is added first."""

from __future__ import annotations

import triton
import triton.language as tl

RMS: tl.constexpr = tl.constexpr(0)
"""The normalised row is cast, then scaled, as in Llama."""
OFFSET: tl.constexpr = tl.constexpr(1)
"""Scaled by 1 + weight in float32, as in Gemma."""
LAYER: tl.constexpr = tl.constexpr(2)
"""To mean zero and variance one."""


@triton.jit
def scale(weight, column, width, dtype: tl.constexpr, KIND: tl.constexpr):
    """What normalised entries are multiplied by, in float32: a weight is rounded to the type of the input first, but
    in Gemma."""
    given = tl.load(weight + column, mask=column < width, other=0.0)
    return 1.0 + given.to(tl.float32) if KIND == 1 else given.to(dtype).to(tl.float32)


@triton.jit
def norm_forward(
    x, residual, weight, bias, normed, total, mean, inverse, rows, width, x_stride, residual_stride, eps,
    KIND: tl.constexpr, ADDED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows a program. `normed` and `total` (the sum, if ADDED) are contiguous; LAYER alone writes `mean`."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here, column = row < rows, tl.arange(0, BLOCK)
    inside = here[:, None] & (column < width)[None, :]
    at = row[:, None] * width + column[None, :]
    dtype: tl.constexpr = normed.dtype.element_ty
    value = tl.load(x + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        other = tl.load(residual + row[:, None] * residual_stride + column[None, :], mask=inside, other=0.0)
        narrow = (value + other.to(tl.float32)).to(dtype)
        tl.store(total + at, narrow, mask=inside)
        value = narrow.to(tl.float32)
    if KIND == 2:
        centre = tl.sum(value, axis=1) / width
        tl.store(mean + row, centre, mask=here)
        value = tl.where(inside, value - centre[:, None], 0.0)
    turn = 1.0 / tl.sqrt(tl.sum(value * value, axis=1) / width + eps)
    tl.store(inverse + row, turn, mask=here)
    value = value * turn[:, None]
    if KIND == 0:
        value = value.to(dtype).to(tl.float32)
    value = value * scale(weight, column, width, dtype, KIND)[None, :]
    if KIND == 2:
        value += tl.load(bias + column, mask=column < width, other=0.0).to(dtype).to(tl.float32)[None, :]
    tl.store(normed + at, value.to(dtype), mask=inside)


@triton.jit
def norm_backward(
    gradient, sum_gradient, x, weight, mean, inverse, to_x, to_weight, to_bias,
    rows, width, gradient_stride, sum_stride, x_stride,
    KIND: tl.constexpr, ADDED: tl.constexpr, SUMMED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program takes every so many-th block of ROWS rows and, if SUMMED, adds the gradients of weight and bias up
    in one row of `to_weight` and `to_bias` [programs, width], in an order that never changes."""
    column = tl.arange(0, BLOCK)
    factor = scale(weight, column, width, x.dtype.element_ty, KIND)[None, :]
    weight_sum, bias_sum = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        here = row < rows
        inside = here[:, None] & (column < width)[None, :]
        slope = tl.load(gradient + row[:, None] * gradient_stride + column[None, :], mask=inside, other=0.0)
        value = tl.load(x + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        slope, turn = slope.to(tl.float32), tl.load(inverse + row, mask=here, other=0.0)
        if KIND == 2:
            value = value - tl.load(mean + row, mask=here, other=0.0)[:, None]
        value = tl.where(inside, value * turn[:, None], 0.0)
        if SUMMED and KIND == 2:
            bias_sum += slope
        if SUMMED:
            weight_sum += slope * (value.to(x.dtype.element_ty).to(tl.float32) if KIND == 0 else value)
        if ROWS == 1:  # read again for every row, from the first-level cache: in registers it would make others spill
            factor = scale(weight, column, width, x.dtype.element_ty, KIND)[None, :]
        slope = slope * factor
        through = slope - value * (tl.sum(slope * value, axis=1) / width)[:, None]
        if KIND == 2:
            through = through - (tl.sum(slope, axis=1) / width)[:, None]
        through = through * turn[:, None]
        if ADDED:
            other = tl.load(sum_gradient + row[:, None] * sum_stride + column[None, :], mask=inside, other=0.0)
            through += other.to(tl.float32)
        tl.store(to_x + row[:, None] * width + column[None, :], through.to(to_x.dtype.element_ty), mask=inside)
    to = tl.program_id(0).to(tl.int64) * width + column
    if SUMMED:
        tl.store(to_weight + to, tl.sum(weight_sum, axis=0), mask=column < width)
    if SUMMED and KIND == 2:
        tl.store(to_bias + to, tl.sum(bias_sum, axis=0), mask=column < width)


@triton.jit
def norm_weights(
    gradient, x, mean, inverse, to_weight, to_bias, rows, width, gradient_stride, x_stride, parts,
    KIND: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias by themselves, for rows too wide to hold their sums beside them: each program takes
    BLOCK columns of one of `parts` of the rows."""
    part = tl.program_id(0) % parts
    column = (tl.program_id(0) // parts) * BLOCK + tl.arange(0, BLOCK)
    weight_sum, bias_sum = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
    for block in range(part, tl.cdiv(rows, ROWS), parts):
        row = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        here = row < rows
        inside = here[:, None] & (column < width)[None, :]
        slope = tl.load(gradient + row[:, None] * gradient_stride + column[None, :], mask=inside, other=0.0)
        value = tl.load(x + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        slope = slope.to(tl.float32)
        if KIND == 2:
            value = value - tl.load(mean + row, mask=here, other=0.0)[:, None]
            bias_sum += slope
        value = value * tl.load(inverse + row, mask=here, other=0.0)[:, None]
        weight_sum += slope * (value.to(x.dtype.element_ty).to(tl.float32) if KIND == 0 else value)
    to = part.to(tl.int64) * width + column
    tl.store(to_weight + to, tl.sum(weight_sum, axis=0), mask=column < width)
    if KIND == 2:
        tl.store(to_bias + to, tl.sum(bias_sum, axis=0), mask=column < width)
