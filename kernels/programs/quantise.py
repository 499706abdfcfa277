"""Triton programs of blocks of 8-bit numbers.

8-bit floating point is made and read with integers: the same bits on every device, also on those without
instructions for it (before sm_89), and in Triton's interpreter.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def encode(value, MANTISSA: tl.constexpr, BIAS: tl.constexpr):
    """The codes of float32 within the grid, to the nearest, ties to even, in uint32; MANTISSA 0: of integers."""
    if MANTISSA == 0:
        return (value + 12582912.0).to(tl.uint32, bitcast=True) & 0xFF  # 1.5 x 2^23: what is added is rounded to a one
    SHIFT: tl.constexpr = 23 - MANTISSA
    bits = value.to(tl.uint32, bitcast=True)
    sign = (bits >> 24) & 0x80
    bits = bits & 0x7FFFFFFF
    normal = (bits - (((127 - BIAS) << 23) - ((1 << (SHIFT - 1)) - 1)) + ((bits >> SHIFT) & 1)) >> SHIFT
    ONE: tl.constexpr = (151 - BIAS - MANTISSA) << 23  # of the number whose last bit is the least of the grid
    least = tl.full(bits.shape, ONE, tl.uint32).to(tl.float32, bitcast=True)
    small = (bits.to(tl.float32, bitcast=True) + least).to(tl.uint32, bitcast=True) - ONE
    return tl.where(bits < ((128 - BIAS) << 23), small, normal) | sign


@triton.jit
def decode(code, MANTISSA: tl.constexpr, BIAS: tl.constexpr):
    """What codes in uint32 stand for, in float32."""
    if MANTISSA == 0:
        return code.to(tl.uint8).to(tl.int8, bitcast=True).to(tl.float32)
    bits = (code & 0x7F) << (23 - MANTISSA)
    ONE: tl.constexpr = (254 - BIAS) << 23  # 2 to the difference of the biases: also right where bits are subnormal
    value = bits.to(tl.float32, bitcast=True) * tl.full(bits.shape, ONE, tl.uint32).to(tl.float32, bitcast=True)
    return (value.to(tl.uint32, bitcast=True) | ((code & 0x80) << 24)).to(tl.float32, bitcast=True)


@triton.jit
def coded(value, INVERSE: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr):
    """Codes of rows of float32, their scales, what the codes stand for, and whether a scale is finite; codes are 0
    where it is not. INVERSE: one over the grid's largest."""
    largest = tl.max(value.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)  # as integers: a NaN is the largest
    scale = largest.to(tl.float32, bitcast=True) * INVERSE
    scale = tl.where(scale < 1.1754943508222875e-38, 1.1754943508222875e-38, scale)
    finite = (scale == scale) & (scale < float("inf"))
    turn = tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)
    near = tl.where(finite[:, None], value, 0.0) * tl.where(finite, turn, 0.0)[:, None]
    code = encode(near, MANTISSA, BIAS)
    return code, scale, decode(code, MANTISSA, BIAS) * tl.where(finite, scale, 0.0)[:, None], finite


@triton.jit
def quantise(
    x, residual, codes, scales, to_residual, elements, blocks, count,
    x_stride, residual_stride, codes_stride, scales_stride, to_stride,
    FEEDBACK: tl.constexpr, INVERSE: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS of the `count` blocks of [parts, elements]; `blocks` of each part."""
    number = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part, place = number // blocks, number % blocks
    column = place[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (number < count)[:, None] & (column < elements)
    value = tl.load(x + part[:, None] * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if FEEDBACK:
        before = tl.load(residual + part[:, None] * residual_stride + column, mask=inside, other=0.0)
        value = value + before
    code, scale, found, finite = coded(value, INVERSE, MANTISSA, BIAS)
    tl.store(codes + part[:, None] * codes_stride + column, code.to(tl.uint8), mask=inside)
    tl.store(scales + part * scales_stride + place, scale, mask=number < count)
    if FEEDBACK:
        left = tl.where(finite[:, None], value - found, before)
        tl.store(to_residual + part[:, None] * to_stride + column, left, mask=inside)


@triton.jit
def dequantise(
    codes, scales, to, elements, blocks, count, codes_stride, scales_stride, to_stride,
    MANTISSA: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS of the `count` blocks of [parts, elements]."""
    number = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part, place = number // blocks, number % blocks
    column = place[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (number < count)[:, None] & (column < elements)
    code = tl.load(codes + part[:, None] * codes_stride + column, mask=inside, other=0).to(tl.uint32)
    scale = tl.load(scales + part * scales_stride + place, mask=number < count, other=0.0)
    value = decode(code, MANTISSA, BIAS) * scale[:, None]
    tl.store(to + part[:, None] * to_stride + column, value.to(to.dtype.element_ty), mask=inside)


@triton.jit
def reduce(
    codes, scales, residual, to, to_codes, to_scales, to_residual, parts, elements, blocks, codes_stride, scales_stride,
    AGAIN: tl.constexpr, INVERSE: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS of the blocks of `elements` numbers: the sum of all parts, the first part first, in `to`; or, AGAIN, the sum
    and `residual` in `to_codes`, `to_scales` and `to_residual`."""
    place = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = place[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    here, inside = place < blocks, column < elements
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for _ in range(parts):
        code = tl.load(codes + column, mask=inside, other=0).to(tl.uint32)
        scale = tl.load(scales + place, mask=here, other=0.0)
        total = total + decode(code, MANTISSA, BIAS) * scale[:, None]
        codes += codes_stride
        scales += scales_stride
    if AGAIN:
        before = tl.load(residual + column, mask=inside, other=0.0)
        total = total + before
        code, scale, found, finite = coded(total, INVERSE, MANTISSA, BIAS)
        tl.store(to_codes + column, code.to(tl.uint8), mask=inside)
        tl.store(to_scales + place, scale, mask=here)
        left = tl.where(finite[:, None], total - found, before)
        tl.store(to_residual + column, left, mask=inside)
    else:
        tl.store(to + column, total, mask=inside)
