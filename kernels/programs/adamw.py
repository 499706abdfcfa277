"""Triton program of AdamW."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def mix(x):
    """lowbias32 (Wellons, hash-prospector) of uint32."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def rounded(value, number, key):
    """float32 that bfloat16 holds: up with the probability that makes it right on average. `number` int64 of the
    element and `key` uint32 choose the 16 random bits."""
    high = mix((number >> 32).to(tl.uint32))
    draw = mix(mix(number.to(tl.uint32) ^ high) ^ key) & 0xFFFF
    bits = value.to(tl.uint32, bitcast=True)
    special = (bits & 0x7F800000) == 0x7F800000
    up = (bits + draw) & 0xFFFF0000
    kept = tl.where(value != value, 0x7FC00000, bits).to(tl.uint32)
    return tl.where(special, kept, up).to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit
def stepped(
    p, g, m, v, factor, number, key, shrink, step_size, weight1, beta2, weight2, root, eps,
    ROUND_PARAMETER: tl.constexpr, ROUND_STATES: tl.constexpr,
):  # fmt: skip
    """Parameter and moments of some elements after a step, in float32. `number` int64 and `key` uint32 draw the random
    bits where ROUND_... asks for them; nothing changes unless `factor`, which multiplies gradients, is finite."""
    g = g * factor
    moved_m = m + weight1 * (g - m)
    moved_v = v * beta2 + weight2 * g * g
    divisor = tl.div_rn(tl.sqrt_rn(moved_v), root + tl.zeros_like(moved_v)) + eps
    moved_p = p * shrink - step_size * tl.div_rn(moved_m, divisor)
    finite = (factor == factor) & (tl.abs(factor) != float("inf"))
    p = tl.where(finite, moved_p, p)
    m = tl.where(finite, moved_m, m)
    v = tl.where(finite, moved_v, v)
    if ROUND_PARAMETER:
        p = rounded(p, number, key)
    if ROUND_STATES:
        m = rounded(m, number, key + 1)
        v = rounded(v, number, key + 2)
    return p, m, v


@triton.jit(do_not_specialize=["number", "width", "pitch", "key"])
def adamw(
    parameter, gradient, first, second, to_parameter, to_first, to_second, scale, count, number, width, pitch, key,
    shrink, step_size, weight1, beta2, weight2, root, eps,
    ROUND_PARAMETER: tl.constexpr, ROUND_STATES: tl.constexpr, RUNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step of `count` elements, written to `to_...`, which may be what is read. `scale`: a number on the device
    that gradients are multiplied by. The first element is number `number` of its tensor and the others follow; with
    RUNS in runs of `width`, each `pitch` after the one before it."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    p = tl.load(parameter + at, mask=here, other=0.0).to(tl.float32)
    g = tl.load(gradient + at, mask=here, other=0.0).to(tl.float32)
    m = tl.load(first + at, mask=here, other=0.0).to(tl.float32)
    v = tl.load(second + at, mask=here, other=0.0).to(tl.float32)
    numbers = number + (at // width * pitch + at % width if RUNS else at)
    p, m, v = stepped(
        p, g, m, v, tl.load(scale), numbers, key.to(tl.uint32),
        shrink, step_size, weight1, beta2, weight2, root, eps, ROUND_PARAMETER, ROUND_STATES,
    )  # fmt: skip
    tl.store(to_parameter + at, p.to(to_parameter.dtype.element_ty), mask=here)
    tl.store(to_first + at, m.to(to_first.dtype.element_ty), mask=here)
    tl.store(to_second + at, v.to(to_second.dtype.element_ty), mask=here)


@triton.jit
def _step_block(
    parameter, gradient, first, second, here, factor, number, key,
    shrink, step_size, weight1, beta2, weight2, root, eps,
    ROUND_PARAMETER: tl.constexpr, ROUND_STATES: tl.constexpr,
):  # fmt: skip
    """Step the elements at these places, or (`here` None: all) those of them that are there."""
    p, g = tl.load(parameter, mask=here).to(tl.float32), tl.load(gradient, mask=here).to(tl.float32)
    m, v = tl.load(first, mask=here).to(tl.float32), tl.load(second, mask=here).to(tl.float32)
    p, m, v = stepped(
        p, g, m, v, factor, number, key,
        shrink, step_size, weight1, beta2, weight2, root, eps, ROUND_PARAMETER, ROUND_STATES,
    )  # fmt: skip
    tl.store(parameter, p.to(parameter.dtype.element_ty), mask=here)
    tl.store(first, m.to(first.dtype.element_ty), mask=here)
    tl.store(second, v.to(second.dtype.element_ty), mask=here)


@triton.jit
def adamw_shards(
    shards, pieces, scale, shrink, step_size, weight1, beta2, weight2, root, eps,
    PARAMETER: tl.constexpr, GRADIENT: tl.constexpr, STATES: tl.constexpr,
    ROUND_PARAMETER: tl.constexpr, ROUND_STATES: tl.constexpr,
    BLOCK: tl.constexpr, PIECE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The same of many tensors in one launch, in place. `pieces` int64 [programs, 2]: a row of `shards`, and the
    first of its PIECE elements. `shards` int64 [tensors, COLUMNS]: addresses of parameter, gradient and moments, count,
    number, width, pitch, key, and whether all addresses are multiples of 16."""
    row = shards + tl.load(pieces + 2 * tl.program_id(0)) * COLUMNS
    begin = tl.load(pieces + 2 * tl.program_id(0) + 1)
    parameter = tl.load(row).to(tl.pointer_type(PARAMETER))
    gradient = tl.load(row + 1).to(tl.pointer_type(GRADIENT))
    first = tl.load(row + 2).to(tl.pointer_type(STATES))
    second = tl.load(row + 3).to(tl.pointer_type(STATES))
    count, number, width, pitch = tl.load(row + 4), tl.load(row + 5), tl.load(row + 6), tl.load(row + 7)
    key, factor = tl.load(row + 8).to(tl.uint32), tl.load(scale)
    aligned = tl.load(row + 9) != 0
    for start in range(begin, tl.minimum(begin + PIECE, count), BLOCK):
        at = start + tl.arange(0, BLOCK)
        numbers = number + at
        if pitch > 0:
            numbers = number + at // width * pitch + at % width
        if aligned & (start + BLOCK <= count):  # 128 bits a thread
            at = tl.max_contiguous(tl.multiple_of(at, 16), BLOCK)
            _step_block(
                tl.multiple_of(parameter, 16) + at, tl.multiple_of(gradient, 16) + at, tl.multiple_of(first, 16) + at,
                tl.multiple_of(second, 16) + at, None, factor, numbers, key,
                shrink, step_size, weight1, beta2, weight2, root, eps, ROUND_PARAMETER, ROUND_STATES,
            )  # fmt: skip
        else:
            _step_block(
                parameter + at, gradient + at, first + at, second + at, at < count, factor, numbers, key,
                shrink, step_size, weight1, beta2, weight2, root, eps, ROUND_PARAMETER, ROUND_STATES,
            )  # fmt: skip
