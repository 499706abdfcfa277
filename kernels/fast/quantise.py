"""Blocks of 8-bit numbers, by Triton."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..facts.quantise import BLOCK, GRIDS
from ..kernel import Sizes
from ..programs import quantise as programs_of
from ..programs.program import Program, program
from . import memory
from .launch import launch

_TILE, _WARPS = 4096, 8  # 16 numbers a thread: 128 bits of codes


def quantise(x: Tensor, format: str, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """As `kernels.quantise.quantise_reference`."""
    codes, scales, _ = _quantise(x, None, format, block)
    return codes, scales


def feedback(x: Tensor, residual: Tensor, format: str, block: int = BLOCK) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.quantise.feedback_reference`."""
    codes, scales, kept = _quantise(x, residual, format, block)
    return codes, scales, kept


def dequantise(codes: Tensor, scales: Tensor, dtype: torch.dtype, format: str, block: int = BLOCK) -> Tensor:
    """As `kernels.quantise.dequantise_reference`."""
    found: Tensor = _dequantise(codes, scales, dtype, format, block)
    return found


def reduce(codes: Tensor, scales: Tensor, format: str, block: int = BLOCK) -> Tensor:
    """As `kernels.quantise.reduce_reference`."""
    found: Tensor = _reduce(codes, scales, format, block)
    return found


def requantise(
    codes: Tensor, scales: Tensor, residual: Tensor, format: str, block: int = BLOCK
) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.quantise.requantise_reference`."""
    to_codes, to_scales, kept = _requantise(codes, scales, residual, format, block)
    return to_codes, to_scales, kept


def quantise_into(
    x: Tensor, codes: Tensor, scales: Tensor, residual: Tensor | None, format: str, block: int
) -> None:  # fmt: skip
    """As `kernels.quantise.quantise_into`."""
    _launch_quantise(_dense(x), residual, codes, scales, residual, format, block)


def dequantise_into(codes: Tensor, scales: Tensor, to: Tensor, format: str, block: int) -> None:
    """As `kernels.quantise.dequantise_into`."""
    if to.shape[1] > 1 and to.stride(1) != 1:
        to.copy_(dequantise(codes, scales, to.dtype, format, block))
    else:
        _launch_dequantise(codes, scales, to, format, block)


def requantise_into(
    codes: Tensor, scales: Tensor, to_codes: Tensor, to_scales: Tensor, residual: Tensor, format: str, block: int
) -> None:
    """As `kernels.quantise.requantise_into`."""
    _launch_reduce(codes, scales, (residual, residual, to_codes, to_scales, residual), True, format, block)


@torch.library.custom_op("meshwright::quantise", mutates_args=())
def _quantise(x: Tensor, residual: Tensor | None, format: str, block: int) -> tuple[Tensor, Tensor, Tensor]:
    codes = memory.empty(x.shape, x, torch.uint8)
    scales = memory.empty((x.shape[0], -(-x.shape[1] // block)), x, torch.float32)
    kept = memory.empty((0, 0) if residual is None else x.shape, x, torch.float32)
    before, after = (None, None) if residual is None else (_dense(residual), kept)
    _launch_quantise(_dense(x), before, codes, scales, after, format, block)
    return codes, scales, kept


@_quantise.register_fake
def _(x: Tensor, residual: Tensor | None, format: str, block: int) -> tuple[Tensor, Tensor, Tensor]:
    scales = x.new_empty((x.shape[0], -(-x.shape[1] // block)), dtype=torch.float32)
    kept = x.new_empty((0, 0) if residual is None else x.shape, dtype=torch.float32)
    return x.new_empty(x.shape, dtype=torch.uint8), scales, kept


@torch.library.custom_op("meshwright::dequantise", mutates_args=())
def _dequantise(codes: Tensor, scales: Tensor, dtype: torch.dtype, format: str, block: int) -> Tensor:
    to = memory.empty(codes.shape, codes, dtype)
    _launch_dequantise(_dense(codes), _dense(scales), to, format, block)
    return to


@_dequantise.register_fake
def _(codes: Tensor, scales: Tensor, dtype: torch.dtype, format: str, block: int) -> Tensor:
    return codes.new_empty(codes.shape, dtype=dtype)


@torch.library.custom_op("meshwright::reduce_quantised", mutates_args=())
def _reduce(codes: Tensor, scales: Tensor, format: str, block: int) -> Tensor:
    to = memory.empty((codes.shape[1],), scales, torch.float32)
    _launch_reduce(_dense(codes), _dense(scales), (to, to, codes, scales, to), False, format, block)
    return to


@_reduce.register_fake
def _(codes: Tensor, scales: Tensor, format: str, block: int) -> Tensor:
    return scales.new_empty((codes.shape[1],), dtype=torch.float32)


@torch.library.custom_op("meshwright::requantise", mutates_args=())
def _requantise(
    codes: Tensor, scales: Tensor, residual: Tensor, format: str, block: int
) -> tuple[Tensor, Tensor, Tensor]:
    one = (1, codes.shape[1])
    to_codes, kept = memory.empty(one, codes, torch.uint8), memory.empty(one, scales, torch.float32)
    to_scales = memory.empty((1, scales.shape[1]), scales, torch.float32)
    into = (_dense(residual), kept, to_codes, to_scales, kept)
    _launch_reduce(_dense(codes), _dense(scales), into, True, format, block)
    return to_codes, to_scales, kept


@_requantise.register_fake
def _(codes: Tensor, scales: Tensor, residual: Tensor, format: str, block: int) -> tuple[Tensor, Tensor, Tensor]:
    made = codes.new_empty((1, codes.shape[1])), scales.new_empty((1, scales.shape[1]))
    return *made, residual.new_empty((1, codes.shape[1]))


def _dense(x: Tensor) -> Tensor:
    """With neighbours of a part side by side."""
    return x if x.shape[1] <= 1 or x.stride(1) == 1 else x.contiguous()


def _launch_quantise(
    x: Tensor, residual: Tensor | None, codes: Tensor, scales: Tensor, kept: Tensor | None, format: str, block: int
) -> None:
    constants, blocks = _constants(format, block), scales.shape[1]
    before, after = x if residual is None else residual, x if kept is None else kept
    strides = (x.stride(0), before.stride(0), codes.stride(0), scales.stride(0), after.stride(0))
    count = len(x) * blocks
    arguments = (x, before, codes, scales, after, x.shape[1], max(1, blocks), count, *strides)
    constants |= {"FEEDBACK": residual is not None, "INVERSE": 1 / GRIDS[format].largest}
    launch(programs_of.quantise, -(-count // constants["ROWS"]), arguments, constants, _WARPS, fusion=False)


def _launch_dequantise(codes: Tensor, scales: Tensor, to: Tensor, format: str, block: int) -> None:
    constants, blocks = _constants(format, block), scales.shape[1]
    count = len(codes) * blocks
    strides = (codes.stride(0), scales.stride(0), to.stride(0))
    arguments = (codes, scales, to, codes.shape[1], max(1, blocks), count, *strides)
    launch(programs_of.dequantise, -(-count // constants["ROWS"]), arguments, constants, _WARPS, fusion=False)


def _launch_reduce(
    codes: Tensor, scales: Tensor, into: tuple[Tensor, ...], again: bool, format: str, block: int
) -> None:
    """`into`: what is added, and where the sum goes, or its codes, scales and residual."""
    constants, blocks = _constants(format, block), scales.shape[1]
    arguments = (codes, scales, *into, len(codes), codes.shape[1], blocks, codes.stride(0), scales.stride(0))
    constants |= {"AGAIN": again, "INVERSE": 1 / GRIDS[format].largest}
    launch(programs_of.reduce, -(-blocks // constants["ROWS"]), arguments, constants, _WARPS, fusion=False)


def _constants(format: str, block: int) -> dict[str, Any]:
    grid = GRIDS[format]
    return {"MANTISSA": grid.mantissa, "BIAS": grid.bias, "ROWS": max(1, _TILE // block), "BLOCK": block}


_NUMBERS = ("elements", "x_stride", "residual_stride", "codes_stride", "scales_stride", "to_stride")
_TYPES = dict.fromkeys(_NUMBERS, "i32:16") | {"blocks": "i32:16", "count": "i32", "parts": "i32"}
_CODES, _WIDE = dict.fromkeys(("codes", "to_codes"), "uint8"), ("residual", "to_residual", "scales", "to_scales")


def _programs_of_quantise(sizes: Sizes, dtype: str, *, format: str, again: bool) -> list[Program]:
    constants = _constants(format, BLOCK) | {"FEEDBACK": again, "INVERSE": 1 / GRIDS[format].largest}
    types = _TYPES | _CODES | dict.fromkeys(_WIDE, "fp32") | {"x": dtype}
    types |= {} if again else {"residual": dtype, "to_residual": dtype}
    return [program("quantise", programs_of.quantise, constants, _WARPS, types, fusion=False)]


def _programs_of_dequantise(sizes: Sizes, dtype: str, *, format: str) -> list[Program]:
    types = _TYPES | _CODES | {"scales": "fp32", "to": dtype}
    return [program("dequantise", programs_of.dequantise, _constants(format, BLOCK), _WARPS, types, fusion=False)]


def _programs_of_reduce(sizes: Sizes, dtype: str, *, format: str, again: bool) -> list[Program]:
    constants = _constants(format, BLOCK) | {"AGAIN": again, "INVERSE": 1 / GRIDS[format].largest}
    types = _TYPES | _CODES | dict.fromkeys((*_WIDE, "to"), "fp32")
    return [program("reduce", programs_of.reduce, constants, _WARPS, types, fusion=False)]


quantise_int8, quantise_e4m3, quantise_e5m2 = (partial(quantise, format=each) for each in GRIDS)
quantise_feedback_int8, quantise_feedback_e4m3, quantise_feedback_e5m2 = (partial(feedback, format=e) for e in GRIDS)
dequantise_int8, dequantise_e4m3, dequantise_e5m2 = (partial(dequantise, format=each) for each in GRIDS)
reduce_int8, reduce_e4m3, reduce_e5m2 = (partial(reduce, format=each) for each in GRIDS)
requantise_int8, requantise_e4m3, requantise_e5m2 = (partial(requantise, format=each) for each in GRIDS)

_once, _again = partial(_programs_of_quantise, again=False), partial(_programs_of_quantise, again=True)
_sum, _resum = partial(_programs_of_reduce, again=False), partial(_programs_of_reduce, again=True)
quantise_int8_programs, quantise_e4m3_programs, quantise_e5m2_programs = (partial(_once, format=e) for e in GRIDS)
quantise_feedback_int8_programs, quantise_feedback_e4m3_programs, quantise_feedback_e5m2_programs = (
    partial(_again, format=each) for each in GRIDS
)
dequantise_int8_programs, dequantise_e4m3_programs, dequantise_e5m2_programs = (
    partial(_programs_of_dequantise, format=each) for each in GRIDS
)
reduce_int8_programs, reduce_e4m3_programs, reduce_e5m2_programs = (partial(_sum, format=each) for each in GRIDS)
requantise_int8_programs, requantise_e4m3_programs, requantise_e5m2_programs = (
    partial(_resum, format=each) for each in GRIDS
)
