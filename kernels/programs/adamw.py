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
def adamw(
    parameter, gradient, first, second, to_parameter, to_first, to_second, scale, count, number, key,
    shrink, step_size, weight1, beta2, weight2, root, eps,
    ROUND_PARAMETER: tl.constexpr, ROUND_STATES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step of `count` elements in float32, written to `to_...`, which may be what is read. `scale`: a number on the
    device that gradients are multiplied by; nothing changes unless it is finite. `number` of the first element and
    `key` draw the random bits where ROUND_... asks for them."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    factor = tl.load(scale)
    p = tl.load(parameter + at, mask=here, other=0.0).to(tl.float32)
    g = tl.load(gradient + at, mask=here, other=0.0).to(tl.float32) * factor
    m = tl.load(first + at, mask=here, other=0.0).to(tl.float32)
    v = tl.load(second + at, mask=here, other=0.0).to(tl.float32)
    moved_m = m + weight1 * (g - m)
    moved_v = v * beta2 + weight2 * g * g
    divisor = tl.div_rn(tl.sqrt_rn(moved_v), root + tl.zeros_like(moved_v)) + eps
    moved_p = p * shrink - step_size * tl.div_rn(moved_m, divisor)
    finite = (factor == factor) & (tl.abs(factor) != float("inf"))
    key = key.to(tl.uint32)
    p = tl.where(finite, moved_p, p)
    m = tl.where(finite, moved_m, m)
    v = tl.where(finite, moved_v, v)
    if ROUND_PARAMETER:
        p = rounded(p, number + at, key)
    if ROUND_STATES:
        m = rounded(m, number + at, key + 1)
        v = rounded(v, number + at, key + 2)
    tl.store(to_parameter + at, p.to(to_parameter.dtype.element_ty), mask=here)
    tl.store(to_first + at, m.to(to_first.dtype.element_ty), mask=here)
    tl.store(to_second + at, v.to(to_second.dtype.element_ty), mask=here)
