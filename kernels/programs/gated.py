"""Triton programs of gated activations."""

from __future__ import annotations

import triton
import triton.language as tl

SILU: tl.constexpr = tl.constexpr(0)
GELU: tl.constexpr = tl.constexpr(1)
"""By the error function."""
GELU_TANH: tl.constexpr = tl.constexpr(2)
"""The approximation of GPT-2 and Gemma."""
RELU: tl.constexpr = tl.constexpr(3)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), whose exponential never overflows."""
    power = tl.exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, power) / (1.0 + power)


@triton.jit
def activation(x, KIND: tl.constexpr):
    """The activation of float32 entries, and its slope."""
    if KIND == 0:
        share = sigmoid(x)
        return x * share, share * (1.0 + x * (1.0 - share))
    if KIND == 1:
        share = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        return x * share, share + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    if KIND == 2:
        inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)  # twice the argument of tanh
        share = sigmoid(inner)
        return x * share, share + x * share * (1.0 - share) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    share = tl.where(x > 0.0, 1.0, tl.where(x == x, 0.0, x))
    return tl.where(share == 0.0, 0.0, x * share), share


@triton.jit
def gated_forward(
    gate, up, result, width, gate_stride, up_stride, blocks, KIND: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """BLOCK entries of one of the rows [rows, width]; `result` is contiguous."""
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    value, _ = activation(x, KIND)
    tl.store(result + row * width + column, (value * y).to(result.dtype.element_ty), mask=inside)


@triton.jit
def gated_backward(
    gradient, gate, up, to_gate, to_up, width, gradient_stride, gate_stride, up_stride, blocks,
    KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """As forward; `to_gate` and `to_up` are contiguous."""
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    slope = tl.load(gradient + row * gradient_stride + column, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    value, steepness = activation(x, KIND)
    at = row * width + column
    tl.store(to_gate + at, (slope * y * steepness).to(to_gate.dtype.element_ty), mask=inside)
    tl.store(to_up + at, (slope * value).to(to_up.dtype.element_ty), mask=inside)
