"""Numbers as bytes and a scale for each block of them, for messages that are a quarter as long, and their sums.

A block's scale is its largest magnitude over the largest number of the grid (int8, or the 8-bit floating point of
arXiv:2209.05433), so nothing saturates and the error is at most half a step. What is not finite makes the scale of its
block infinite or NaN, and with it all that is read back from the block. Feedback (arXiv:1901.09847) adds to the next
numbers what the last rounding left, so that errors do not add up: the sum of all that was sent is the sum of all that
was to be sent, but for one residual. Sums go through the parts in their order, in float32: every rank, and every
run, finds the same bits, on every device, as all of this is rounded by the same operations everywhere.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from . import expect
from .facts.quantise import BLOCK, GRIDS
from .switch import runs_fast

TINY = 2.0**-126
"""The least scale: one over it is finite."""
_MAGNITUDE = 0x7FFFFFFF
_INFINITE = 0x7F800000
_BYTES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "int8": torch.int8}

Coded = tuple[Tensor, Tensor]
"""Codes, uint8 [parts, elements], and scales, float32 [parts, blocks]."""


def blocks_of(elements: int, block: int = BLOCK) -> int:
    """Scales of so many numbers."""
    return -(-elements // block)


@torch.no_grad()
def quantise_into(
    x: Tensor, codes: Tensor, scales: Tensor, residual: Tensor | None, format: str, block: int = BLOCK
) -> None:
    """Write `x` [parts, elements] as `codes` and `scales`. `residual`, float32 like `x`, is added first and then holds
    what the rounding left; of blocks that are not finite it stays as it was."""
    _check(f"quantise_{format}", x.shape, codes, scales, residual, block)
    expect.floating("quantise", x=x)
    if runs_fast(f"quantise_{format}", x, parts=x.shape[0], elements=x.shape[1]):
        from .fast.quantise import quantise_into as fast

        fast(x, codes, scales, residual, format, block)
        return
    found = quantise_reference(x, format, block) if residual is None else feedback_reference(x, residual, format, block)
    for to, each in zip((codes, scales, residual), found, strict=False):
        if to is not None:
            to.copy_(each)


@torch.no_grad()
def dequantise_into(codes: Tensor, scales: Tensor, to: Tensor, format: str, block: int = BLOCK) -> None:
    """Write to `to` [parts, elements], in its type, what these blocks stand for."""
    _check(f"dequantise_{format}", to.shape, codes, scales, None, block)
    expect.floating("dequantise", to=to)
    if runs_fast(f"dequantise_{format}", to, parts=to.shape[0], elements=to.shape[1]):
        from .fast.quantise import dequantise_into as fast

        fast(codes, scales, to, format, block)
        return
    to.copy_(dequantise_reference(codes, scales, to.dtype, format, block))


@torch.no_grad()
def requantise_into(
    codes: Tensor, scales: Tensor, to_codes: Tensor, to_scales: Tensor, residual: Tensor, format: str,
    block: int = BLOCK,
) -> None:  # fmt: skip
    """Add up parts, `codes` [parts, elements] with `scales`, in their order, and write the sum to `to_codes`
    [1, elements] and `to_scales` [1, blocks], with the feedback of `residual`, float32 [1, elements]."""
    _check(f"requantise_{format}", codes.shape, codes, scales, None, block)
    _check(f"requantise_{format}", residual.shape, to_codes, to_scales, residual, block)
    expect.shape("requantise", "residual", residual, (1, codes.shape[1]))
    if runs_fast(f"requantise_{format}", residual, parts=codes.shape[0], elements=codes.shape[1]):
        from .fast.quantise import requantise_into as fast

        fast(codes, scales, to_codes, to_scales, residual, format, block)
        return
    found = requantise_reference(codes, scales, residual, format, block)
    for to, each in zip((to_codes, to_scales, residual), found, strict=True):
        to.copy_(each)


def quantise_reference(x: Tensor, format: str, block: int = BLOCK) -> Coded:
    """Codes and scales of `x` [parts, elements], in plain PyTorch; computed in float32 whatever the type."""
    codes, scales = _coded(_in_blocks(x.float(), block), format)
    return _whole(codes, x.shape[1]).contiguous(), scales


def feedback_reference(x: Tensor, residual: Tensor, format: str, block: int = BLOCK) -> tuple[Tensor, Tensor, Tensor]:
    """The same of `x + residual`, and what the rounding left; where a scale is not finite, `residual`."""
    wanted, residual = x.float() + residual.float(), residual.float()
    codes, scales = _coded(_in_blocks(wanted, block), format)
    left = wanted - _whole(_numbers(codes, scales, format), x.shape[1])
    finite = scales.isfinite().repeat_interleave(block, dim=1)[:, : x.shape[1]]
    return _whole(codes, x.shape[1]).contiguous(), scales, torch.where(finite, left, residual)


def dequantise_reference(
    codes: Tensor, scales: Tensor, dtype: torch.dtype, format: str, block: int = BLOCK
) -> Tensor:  # fmt: skip
    """What blocks stand for, [parts, elements] of this type."""
    return _whole(_numbers(_in_blocks(codes, block), scales, format), codes.shape[1]).to(dtype)


def reduce_reference(codes: Tensor, scales: Tensor, format: str, block: int = BLOCK) -> Tensor:
    """The sum of all parts, float32 [elements], the first part first."""
    total = torch.zeros(codes.shape[1], dtype=torch.float32, device=codes.device)
    for own, scale in zip(torch.split(codes, 1), torch.split(scales.float(), 1), strict=True):
        total = total + dequantise_reference(own, scale, torch.float32, format, block)[0]
    return total


def requantise_reference(
    codes: Tensor, scales: Tensor, residual: Tensor, format: str, block: int = BLOCK
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of all parts quantised again, as `feedback_reference` does it, [1, elements]."""
    return feedback_reference(reduce_reference(codes, scales, format, block).unsqueeze(0), residual, format, block)


def _in_blocks(x: Tensor, block: int) -> Tensor:
    """[parts, elements] as [parts, blocks, block], with zeros at the end of the last."""
    missing = -x.shape[1] % block
    return (F.pad(x, (0, missing)) if missing else x).reshape(x.shape[0], blocks_of(x.shape[1], block), block)


def _whole(x: Tensor, elements: int) -> Tensor:
    """The opposite."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2])[:, :elements]


def _coded(x: Tensor, format: str) -> Coded:
    """Of blocks [parts, blocks, block]: codes like them, and scales."""
    largest = (x.view(torch.int32) & _MAGNITUDE).amax(-1).view(torch.float32)  # as integers: a NaN is the largest
    scales = (largest * (1 / GRIDS[format].largest)).clamp(min=TINY)
    near = x * scales.reciprocal().unsqueeze(-1)
    codes = (near.round() if format == "int8" else near).to(_BYTES[format]).view(torch.uint8)
    return torch.where(scales.isfinite().unsqueeze(-1), codes, 0), scales


def _numbers(codes: Tensor, scales: Tensor, format: str) -> Tensor:
    """Of codes [parts, blocks, block]."""
    return codes.view(_BYTES[format]).to(scales.dtype) * scales.unsqueeze(-1)


def _check(
    kernel: str, shape: torch.Size, codes: Tensor, scales: Tensor, residual: Tensor | None, block: int
) -> None:  # fmt: skip
    if block < 16 or block & (block - 1):
        raise ValueError(f"{kernel}: block is {block}, expected a power of two from 16 on")
    expect.rank(kernel, "codes", codes, 2)
    expect.shape(kernel, "codes", codes, shape)
    expect.dtype(kernel, "codes", codes, torch.uint8)
    expect.shape(kernel, "scales", scales, (shape[0], blocks_of(shape[1], block)))
    expect.dtype(kernel, "scales", scales, torch.float32)
    tensors = {"codes": codes, "scales": scales, "residual": residual}
    if residual is not None:
        expect.shape(kernel, "residual", residual, shape)
        expect.dtype(kernel, "residual", residual, torch.float32)
    expect.one_device(kernel, **tensors)
    for name, x in tensors.items():
        if x is not None:
            expect.dense_rows(kernel, name, x)


quantise_int8_reference, quantise_e4m3_reference, quantise_e5m2_reference = (
    partial(quantise_reference, format=each) for each in GRIDS
)
quantise_feedback_int8_reference, quantise_feedback_e4m3_reference, quantise_feedback_e5m2_reference = (
    partial(feedback_reference, format=each) for each in GRIDS
)
dequantise_int8_reference, dequantise_e4m3_reference, dequantise_e5m2_reference = (
    partial(dequantise_reference, format=each) for each in GRIDS
)
reduce_int8_reference, reduce_e4m3_reference, reduce_e5m2_reference = (
    partial(reduce_reference, format=each) for each in GRIDS
)
requantise_int8_reference, requantise_e4m3_reference, requantise_e5m2_reference = (
    partial(requantise_reference, format=each) for each in GRIDS
)
