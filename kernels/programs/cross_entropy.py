"""Triton programs of cross-entropy: what logits sum up to, and their gradient. A program has one row of logits.

A row is read twice: for its sums, and from its end back to its beginning for the gradient, so that what was read last is
found in the caches. With as many warps as a multiprocessor takes of one program there is one row a multiprocessor at a
time, and 132 rows of 128256 logits in 16 bits are 34 MB: less than the second-level cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gated import sigmoid

LEAST: tl.constexpr = tl.constexpr(-3.0e38)
"""In place of the largest of no logits: finite, so that differences of two are no NaN."""


@triton.jit
def capped(value, cap):
    """cap tanh(value / cap)."""
    return cap * (2.0 * sigmoid(value * (2.0 / cap)) - 1.0)


@triton.jit
def scan(
    at, width, bound, cap,
    CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest logit of a row, the sum of exponentials over it, and if SMOOTHED the sum of all. `bound` columns may
    be read, `width` count. Each lane goes by the largest of its own, PARTS at a time, and lanes meet at the end."""
    offset = tl.arange(0, PARTS)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    most, powers = tl.full([BLOCK], LEAST, tl.float32), tl.zeros([BLOCK], tl.float32)
    whole = tl.zeros([BLOCK], tl.float32)
    for start in range(0, bound, PARTS * BLOCK):
        column = start + offset
        value = tl.load(at + column, mask=column < bound, other=0.0, eviction_policy="evict_last").to(tl.float32)
        if CAPPED:
            value = capped(value, cap)
        if SMOOTHED:
            whole += tl.sum(tl.where(column < width, value, 0.0), axis=0)
        value = tl.where(column < width, value, float("-inf"))
        larger = tl.maximum(most, tl.max(value, axis=0))
        powers = powers * tl.exp(most - larger) + tl.sum(tl.exp(value - larger[None, :]), axis=0)
        most = larger
    largest = tl.max(most, axis=0)
    return largest, tl.sum(powers * tl.exp(most - largest), axis=0), tl.sum(whole, axis=0)


@triton.jit
def logit(at, column, width, cap, CAPPED: tl.constexpr):
    """Of one column, 0 where that is not here."""
    here = (column >= 0) & (column < width)
    value = tl.load(at + column, mask=here, other=0.0).to(tl.float32)
    return capped(value, cap) if CAPPED else value


@triton.jit
def descend(
    at, to, column_of_target, largest, rate, hit, base, scale, width, bound, to_bound, cap,
    CAPPED: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a row, from its end on, perhaps over the logits: exponentials over `largest` times `rate`,
    less `base`, at the target less `hit`, all times `scale`. Columns from `width` to `to_bound` become zero."""
    offset = tl.arange(0, PARTS)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    steps = tl.cdiv(bound, PARTS * BLOCK)
    for step in range(0, steps):
        column = (steps - 1 - step) * (PARTS * BLOCK) + offset
        value = tl.load(at + column, mask=column < bound, other=0.0, eviction_policy="evict_first").to(tl.float32)
        if CAPPED:
            value = capped(value, cap)
        found = tl.exp(value - largest) * rate - base
        found = tl.where(column == column_of_target, found - hit, found) * scale
        if CAPPED:
            found = found * (1.0 - (value / cap) * (value / cap))
        found = tl.where(column < width, found, 0.0).to(to.dtype.element_ty)
        tl.store(to + column, found, mask=column < to_bound, eviction_policy="evict_first")


@triton.jit
def erase(to, to_bound, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """The gradient of a row that does not count."""
    offset = tl.arange(0, PARTS)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    for start in range(0, to_bound, PARTS * BLOCK):
        nothing = tl.zeros([PARTS, BLOCK], tl.float32).to(to.dtype.element_ty)
        tl.store(to + start + offset, nothing, mask=start + offset < to_bound)


@triton.jit
def loss_of(largest, powers, target, whole, vocab, smoothing, z_loss):
    """In nats, and what probabilities are multiplied by in its gradient."""
    log_sum = largest + tl.log(powers)
    loss = (tl.log(powers) + (largest - target)) + smoothing * (target - whole / vocab)
    return loss + z_loss * log_sum * log_sum, 1.0 + 2.0 * z_loss * log_sum


@triton.jit
def summarise(
    logits, targets, to, rows, width, bound, stride, first, cap,
    CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What a share of the columns, from `first` on, sums up to, `to` [3 or 4, rows]: the sum of exponentials, the largest
    logit, the target's if it is here, the sum of all if SMOOTHED. Rows that do not count are not read."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    largest, powers, found, whole = LEAST, 0.0, 0.0, 0.0
    if target >= 0:
        at = logits + row * stride
        largest, powers, whole = scan(at, width, bound, cap, CAPPED, SMOOTHED, PARTS, BLOCK)
        found = logit(at, target - first, width, cap, CAPPED)
    tl.store(to + row, powers)
    tl.store(to + rows + row, largest)
    tl.store(to + 2 * rows + row, found)
    if SMOOTHED:
        tl.store(to + 3 * rows + row, whole)


@triton.jit
def slopes(
    logits, targets, every, losses, to, rows, width, bound, stride, to_bound, to_stride, first, vocab, ranks,
    cap, smoothing, z_loss, scale,
    CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Losses, and the gradient of a share of the columns, of what all `ranks` summed up, `every` [ranks, 3 or 4, rows],
    merged in the order of ranks."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    loss = 0.0
    if target >= 0:
        step = rows.to(tl.int64) * (4 if SMOOTHED else 3)
        largest = LEAST
        for rank in range(0, ranks):
            largest = tl.maximum(largest, tl.load(every + rank * step + rows + row))
        powers, found, whole = 0.0, 0.0, 0.0
        for rank in range(0, ranks):
            own = every + rank * step + row
            powers += tl.load(own) * tl.exp(tl.load(own + rows) - largest)
            found += tl.load(own + 2 * rows)
            if SMOOTHED:
                whole += tl.load(own + 3 * rows)
        loss, rate = loss_of(largest, powers, found, whole, vocab, smoothing, z_loss)
        loss = tl.where(target < vocab, loss * scale, float("nan"))
        descend(
            logits + row * stride, to + row * to_stride, target - first, largest, rate / powers,
            1.0 - smoothing, smoothing / vocab, scale, width, bound, to_bound, cap, CAPPED, PARTS, BLOCK,
        )  # fmt: skip
    else:
        erase(to + row * to_stride, to_bound, PARTS, BLOCK)
    tl.store(losses + row, loss)


@triton.jit
def losses_and_slopes(
    logits, targets, losses, to, width, bound, stride, to_bound, to_stride, cap, smoothing, z_loss,
    CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, WRITTEN: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Both of rows that are here whole; without the gradient unless WRITTEN. `to` may be `logits`."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    loss = 0.0
    if target >= 0:
        at = logits + row * stride
        found = logit(at, target, width, cap, CAPPED)
        largest, powers, whole = scan(at, width, bound, cap, CAPPED, SMOOTHED, PARTS, BLOCK)
        loss, rate = loss_of(largest, powers, found, whole, width, smoothing, z_loss)
        loss = tl.where(target < width, loss, float("nan"))
        if WRITTEN:
            descend(
                at, to + row * to_stride, target, largest, rate / powers,
                1.0 - smoothing, smoothing / width, 1.0, width, bound, to_bound, cap, CAPPED, PARTS, BLOCK,
            )  # fmt: skip
    else:
        if WRITTEN:
            erase(to + row * to_stride, to_bound, PARTS, BLOCK)
    tl.store(losses + row, loss)
