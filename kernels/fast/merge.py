"""Merging of partial attention, by Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernel import Sizes
from ..programs.merge import merge_backward, merge_forward
from ..programs.program import Program, program
from . import memory
from .launch import launch, power_of_two

_ENTRIES = 2048  # of a program: 16 a thread
_WARPS = 4


def merge(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """As `kernels.merge.merge`."""
    merged, both = _merge(output, lse, other, other_lse)
    return merged, both


def merge_into(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """As `kernels.merge.merge_into`."""
    _merge_into(output, lse, other, other_lse)


def programs(sizes: Sizes, dtype: str) -> list[Program]:
    """As they are launched for these sizes."""
    constants = _constants(sizes["width"])
    types = dict.fromkeys(("output", "lse", "other_lse", "into", "into_lse"), "fp32") | {"other": dtype}
    types |= {f"{name}_{dim}": "i32:16" for name in ("output", "other", "into") for dim in "bhr"}
    types |= {f"{name}_{dim}": "i32" for name in ("lse", "other_lse", "into_lse") for dim in "bhr"}
    types |= {"count": "i32", "heads": "i32", "rows": "i32", "width": "i32:16"}
    wide = ("gradient", "lse_gradient", "output", "lse", "other_lse", "to_output", "to_lse", "to_other_lse")
    backward = dict.fromkeys(wide, "fp32") | {"other": dtype, "to_other": dtype, "count": "i32", "width": "i32:16"}
    return [
        program("merge_forward", merge_forward, constants, _WARPS, types),
        program("merge_backward", merge_backward, constants, _WARPS, backward),
    ]


def _constants(width: int) -> dict[str, int]:
    block = power_of_two(width)
    return {"ROWS": max(1, _ENTRIES // block), "BLOCK": block}


@torch.library.custom_op("meshwright::merge", mutates_args=())
def _merge(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    merged, both = memory.empty(output.shape, output), memory.empty(lse.shape, lse)
    _launch(output, lse, other, other_lse, merged, both)
    return merged, both


@_merge.register_fake
def _(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    return memory.empty(output.shape, output), memory.empty(lse.shape, lse)


@torch.library.custom_op("meshwright::merge_into", mutates_args=("output", "lse"))
def _merge_into(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    _launch(output, lse, other, other_lse, output, lse)


def _launch(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor, into: Tensor, into_lse: Tensor) -> None:
    """`into` and `into_lse` are written where they are; of the others, rows that are scattered are copied."""
    outputs = [_four(x if x.stride(-1) == 1 or x is into else x.contiguous()) for x in (output, other, into)]
    sums = [_four(x.unsqueeze(-1)) for x in (lse, other_lse, into_lse)]
    batch, heads, rows, width = outputs[0].shape
    constants, count = _constants(width), batch * heads * rows
    both = zip(outputs, sums, strict=True)
    strides = [stride for pair in both for x in pair for stride in x.stride()[:3]]
    tensors = [x for pair in zip(outputs, sums, strict=True) for x in pair]
    arguments = (*tensors, count, heads, rows, width, *strides)
    launch(merge_forward, -(-count // constants["ROWS"]), arguments, constants, _WARPS)


def _four(x: Tensor) -> Tensor:
    """[..., rows, width] as [batch, heads, rows, width], a view wherever strides allow."""
    if x.ndim > 4:
        return x.flatten(0, x.ndim - 4)
    return x[(None,) * (4 - x.ndim)]


@torch.library.custom_op("meshwright::merge_backward", mutates_args=())
def _merge_backward(
    gradient: Tensor, lse_gradient: Tensor, output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    given = tuple(x.contiguous() for x in (gradient, lse_gradient, output, lse, other, other_lse))
    found = tuple(memory.empty(x.shape, x) for x in given[2:])
    constants, count = _constants(output.shape[-1]), lse.numel()
    arguments = (*given, *found, count, output.shape[-1])
    launch(merge_backward, -(-count // constants["ROWS"]), arguments, constants, _WARPS)
    return found[0], found[1], found[2], found[3]


@_merge_backward.register_fake
def _(
    gradient: Tensor, lse_gradient: Tensor, output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    output, lse, other, other_lse = (memory.empty(x.shape, x) for x in (output, lse, other, other_lse))
    return output, lse, other, other_lse


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: Tensor, lse_gradient: Tensor) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = _merge_backward(gradient, lse_gradient, *ctx.saved_tensors)
    return found


_merge.register_autograd(_differentiate, setup_context=_save)
