"""Triton programs that merge partial attention, and their backward."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weights(lse, other_lse):
    """Shares of both, and the log-sum-exp of both; 0 and -inf where neither saw anything."""
    largest = tl.maximum(lse, other_lse)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    own, others = tl.exp(lse - shift), tl.exp(other_lse - shift)
    total = own + others
    safe = tl.where(total == 0.0, 1.0, total)
    both = tl.where(total == 0.0, float("-inf"), shift + tl.log(safe))
    return own / safe, others / safe, both


@triton.jit
def merge_forward(
    output, lse, other, other_lse, into, into_lse,
    count, heads, rows, width,
    output_b, output_h, output_r, lse_b, lse_h, lse_r,
    other_b, other_h, other_r, other_lse_b, other_lse_h, other_lse_r,
    into_b, into_h, into_r, into_lse_b, into_lse_h, into_lse_r,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`count` rows of [batch, heads, rows, width], each tensor with strides of its own. `into` may be `output`."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = row < count
    b, h, r = row // (heads * rows), (row // rows) % heads, row % rows
    a = tl.load(lse + b * lse_b + h * lse_h + r * lse_r, mask=here, other=0.0)
    c = tl.load(other_lse + b * other_lse_b + h * other_lse_h + r * other_lse_r, mask=here, other=0.0)
    own, others, both = weights(a.to(tl.float32), c.to(tl.float32))
    column = tl.arange(0, BLOCK)[None, :]
    inside = here[:, None] & (column < width)
    x = tl.load(output + (b * output_b + h * output_h + r * output_r)[:, None] + column, mask=inside, other=0.0)
    y = tl.load(other + (b * other_b + h * other_h + r * other_r)[:, None] + column, mask=inside, other=0.0)
    merged = own[:, None] * x.to(tl.float32) + others[:, None] * y.to(tl.float32)
    at = into + (b * into_b + h * into_h + r * into_r)[:, None] + column
    tl.store(at, merged.to(into.dtype.element_ty), mask=inside)
    to = into_lse + b * into_lse_b + h * into_lse_h + r * into_lse_r
    tl.store(to, both.to(into_lse.dtype.element_ty), mask=here)


@triton.jit
def merge_backward(
    gradient, lse_gradient, output, lse, other, other_lse, to_output, to_lse, to_other, to_other_lse, count, width,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All tensors contiguous, [count, width] and [count]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = row < count
    a = tl.load(lse + row, mask=here, other=0.0).to(tl.float32)
    c = tl.load(other_lse + row, mask=here, other=0.0).to(tl.float32)
    own, others, _ = weights(a, c)
    column = tl.arange(0, BLOCK)[None, :]
    inside, at = here[:, None] & (column < width), row[:, None] * width + column
    slope = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(output + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(other + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(to_output + at, (own[:, None] * slope).to(to_output.dtype.element_ty), mask=inside)
    tl.store(to_other + at, (others[:, None] * slope).to(to_other.dtype.element_ty), mask=inside)
    moved = own * others * tl.sum(slope * (x - y), axis=1)
    through = tl.load(lse_gradient + row, mask=here, other=0.0).to(tl.float32)
    tl.store(to_lse + row, (moved + own * through).to(to_lse.dtype.element_ty), mask=here)
    tl.store(to_other_lse + row, (others * through - moved).to(to_other_lse.dtype.element_ty), mask=here)
