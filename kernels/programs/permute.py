"""Triton programs that bring tokens to the order of their experts and back. Nothing is added atomically."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def ranks(experts, inverse, counts, pairs, blocks, experts_count, BLOCK: tl.constexpr):
    """The first of two steps of a stable counting sort. Each program takes BLOCK pairs: how many earlier ones of its
    block have the same expert goes to `inverse` [pairs], how many there are of each to `counts` [experts, blocks],
    which was zero. A pair whose expert is not there is not counted."""
    block = tl.program_id(0)
    own, other = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    at, beside = block.to(tl.int64) * BLOCK + own, block.to(tl.int64) * BLOCK + other
    mine = tl.load(experts + at, mask=at < pairs, other=-1)
    theirs = tl.load(experts + beside, mask=beside < pairs, other=-1)
    same = (mine[:, None] == theirs[None, :]).to(tl.int32)
    earlier = tl.sum(tl.where(other[None, :] < own[:, None], same, 0), axis=1)
    later = tl.sum(tl.where(other[None, :] > own[:, None], same, 0), axis=1)
    there = (at < pairs) & (mine >= 0) & (mine < experts_count)
    tl.store(inverse + at, tl.where(there, earlier, -1).to(tl.int64), mask=at < pairs)
    tl.store(counts + mine * blocks + block, (earlier + 1).to(tl.int64), mask=there & (later == 0))


@triton.jit
def places(experts, ends, counts, order, inverse, pairs, blocks, BLOCK: tl.constexpr):
    """The second: `ends` [experts, blocks] is the sum of `counts` up to each, so a pair's row is known. Writes `order`
    [pairs] and `inverse`, which holds what `ranks` wrote."""
    block = tl.program_id(0)
    at = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    rank = tl.load(inverse + at, mask=at < pairs, other=-1)
    there = (at < pairs) & (rank >= 0)
    expert = tl.load(experts + at, mask=there, other=0)
    column = expert * blocks + block
    end = tl.load(ends + column, mask=there, other=0)
    row = end - tl.load(counts + column, mask=there, other=0) + rank
    tl.store(inverse + at, row, mask=there)
    tl.store(order + row, at, mask=there)


@triton.jit
def spread(x, rows_of, rows, x_stride, CHOICES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Copy each token x [tokens, WIDTH] to its rows [rows, WIDTH]: `rows_of` [tokens, CHOICES], below zero to none. A
    program has BLOCK columns of a token, which is read once."""
    columns: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    token = (tl.program_id(0) // columns).to(tl.int64)
    column = (tl.program_id(0) % columns) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    value = tl.load(x + token * x_stride + column, mask=inside, other=0.0)
    for choice in tl.static_range(CHOICES):
        row = tl.load(rows_of + token * CHOICES + choice)
        tl.store(rows + row * WIDTH + column, value, mask=column < tl.where(row >= 0, WIDTH, 0))


@triton.jit
def collect(
    rows, weights, rows_of, to, rows_stride,
    CHOICES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Add up the rows of each token, times `weights` [tokens, CHOICES] if WEIGHTED, in float32 and in the order of the
    choices: `to` [tokens, WIDTH]."""
    columns: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    token = (tl.program_id(0) // columns).to(tl.int64)
    column = (tl.program_id(0) % columns) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for choice in tl.static_range(CHOICES):
        row = tl.load(rows_of + token * CHOICES + choice)
        held = column < tl.where(row >= 0, WIDTH, 0)
        value = tl.load(rows + row * rows_stride + column, mask=held, other=0.0).to(tl.float32)
        if WEIGHTED:
            value = value * tl.load(weights + token * CHOICES + choice).to(tl.float32)
        total += value
    tl.store(to + token * WIDTH + column, total.to(to.dtype.element_ty), mask=column < WIDTH)


@triton.jit
def collect_backward(
    gradient, rows, weights, rows_of, to_rows, to_weights, gradient_stride, rows_stride,
    CHOICES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A choice of a token a program: the gradient of its row is the token's times its weight, that of the weight the
    product of both. Programs of a token find its gradient in the cache."""
    pair = tl.program_id(0).to(tl.int64)
    row, weight = tl.load(rows_of + pair), tl.load(weights + pair).to(tl.float32)
    product = tl.zeros([BLOCK], tl.float32)
    for start in range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        held = column < tl.where(row >= 0, WIDTH, 0)
        slope = tl.load(gradient + (pair // CHOICES) * gradient_stride + column, mask=held, other=0.0).to(tl.float32)
        value = tl.load(rows + row * rows_stride + column, mask=held, other=0.0).to(tl.float32)
        product += value * slope
        tl.store(to_rows + row * WIDTH + column, (weight * slope).to(to_rows.dtype.element_ty), mask=held)
    tl.store(to_weights + pair, tl.sum(product, axis=0).to(to_weights.dtype.element_ty))
