"""Grouped products: every run of rows with the matrix of its own expert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import expect
from .switch import runs_fast

_GROUPED = {"cpu": (torch.float32, torch.bfloat16, torch.float16), "cuda": (torch.bfloat16,)}
_ALIGNMENT_BYTES = 16  # of every row of every operand: F.grouped_mm refuses others


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Rows x [rows, in], the first counts[0] times weight[0], the next times weight[1], and so on: [rows, out].

    `weight` is [experts, out, in] in the type of x; `counts` int64 [experts] on the device of x add up to the rows.
    One grouped product where PyTorch has it for these sizes, else one by Triton where that runs, else one product an
    expert. An expert without rows gets a gradient of zeros.
    """
    _check(x, weight, counts)
    if can_group(x, weight):
        ends = counts.cumsum(0).to(torch.int32)
        return _contiguous_gradient(F.grouped_mm(x, weight.transpose(-2, -1), offs=ends))
    experts, outer, inner = weight.shape
    if runs_fast("grouped_linear", x, rows=len(x), experts=experts, inner=inner, outer=outer):
        from .fast.grouped import grouped_linear as fast

        return fast(x, weight, counts)
    return grouped_linear_loop(x, weight, counts)


def grouped_linear_loop(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """As `grouped_linear`, one product an expert."""
    runs = torch.split(x, counts.tolist())
    return torch.cat([F.linear(run, matrix) for run, matrix in zip(runs, weight, strict=True)])


def _check(x: Tensor, weight: Tensor, counts: Tensor) -> None:
    expect.shape("grouped_linear", "x", x, (len(x), weight.shape[-1]))
    expect.shape("grouped_linear", "counts", counts, weight.shape[:1])
    expect.dtype("grouped_linear", "weight", weight, x.dtype)
    expect.one_device("grouped_linear", x=x, weight=weight, counts=counts)


def can_group(x: Tensor, weight: Tensor) -> bool:
    """Whether F.grouped_mm takes these: it wants rows, a type that the device has it for, and rows of a multiple of 16
    bytes."""
    aligned = all(size * x.element_size() % _ALIGNMENT_BYTES == 0 for size in weight.shape[1:])
    known = x.dtype in _GROUPED.get(x.device.type, ())
    return aligned and known and len(x) > 0 and hasattr(F, "grouped_mm")


class _ContiguousGradient(torch.autograd.Function):
    """F.grouped_mm's backward refuses the expanded gradient that a sum sends back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


_contiguous_gradient: Callable[[Tensor], Tensor] = _ContiguousGradient.apply
