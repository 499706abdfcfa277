"""Triton programs of grouped products: runs of rows, each with the matrix of its own expert."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def grouped_rows(
    x, weight, tile_experts, tile_ends, ends, counts, to, experts, x_stride, to_inner, to_outer,
    INNER: tl.constexpr, OUTER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of ROWS rows of one expert and COLUMNS columns: to [rows, OUTER] = x [rows, INNER] times the matrix of the
    expert, whose entries are `to_inner` and `to_outer` apart. `tile_experts`: whose a tile is, `experts` if nobody's;
    `tile_ends` and `ends`: tiles and rows up to and with each expert."""
    columns: tl.constexpr = (OUTER + COLUMNS - 1) // COLUMNS
    tile, column = tl.program_id(0) // columns, (tl.program_id(0) % columns) * COLUMNS + tl.arange(0, COLUMNS)
    expert = tl.load(tile_experts + tile)
    if expert < experts:
        end = tl.load(ends + expert)
        count = tl.load(counts + expert)
        before = tl.load(tile_ends + expert) - (count + ROWS - 1) // ROWS
        row = end - count + (tile - before) * ROWS + tl.arange(0, ROWS)
        matrix = weight + expert * INNER * OUTER
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in range(0, INNER, STEP):
            inner = start + tl.arange(0, STEP)
            here = (row < end)[:, None] & (inner < INNER)[None, :]
            left = tl.load(x + row[:, None] * x_stride + inner[None, :], mask=here, other=0.0)
            there = (inner < INNER)[:, None] & (column < OUTER)[None, :]
            right = tl.load(matrix + inner[:, None] * to_inner + column[None, :] * to_outer, mask=there, other=0.0)
            total = tl.dot(left, right, total, input_precision=PRECISION)
        inside = (row < end)[:, None] & (column < OUTER)[None, :]
        tl.store(to + row[:, None] * OUTER + column[None, :], total.to(to.dtype.element_ty), mask=inside)


@triton.jit
def grouped_weights(
    gradient, x, ends, counts, to, gradient_stride, x_stride,
    INNER: tl.constexpr, OUTER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of the gradient of one expert's matrix: to [experts, OUTER, INNER], sums over its own rows, in order."""
    across: tl.constexpr = (INNER + COLUMNS - 1) // COLUMNS
    tiles: tl.constexpr = across * ((OUTER + ROWS - 1) // ROWS)
    expert, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    outer = (tile // across) * ROWS + tl.arange(0, ROWS)
    inner = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    end = tl.load(ends + expert)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(end - tl.load(counts + expert), end, STEP):
        row = start + tl.arange(0, STEP)
        here = (outer < OUTER)[:, None] & (row < end)[None, :]
        left = tl.load(gradient + row[None, :] * gradient_stride + outer[:, None], mask=here, other=0.0)
        there = (row < end)[:, None] & (inner < INNER)[None, :]
        right = tl.load(x + row[:, None] * x_stride + inner[None, :], mask=there, other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    at = to + expert * INNER * OUTER + outer[:, None] * INNER + inner[None, :]
    tl.store(at, total.to(to.dtype.element_ty), mask=(outer < OUTER)[:, None] & (inner < INNER)[None, :])
