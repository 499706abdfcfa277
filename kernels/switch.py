"""Switch: whether kernels run as Triton programs or as their plain PyTorch references, for the whole process."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from .registry import KERNELS

Choice = Literal["auto", "reference"]
"""auto: Triton on a CUDA device wherever a kernel takes the sizes and types; reference: plain PyTorch everywhere."""

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter runs programs on CPU, for tests. Triton itself asks when it is first imported."""

_TYPES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "int64",
}  # fmt: skip
_chosen: Choice = "auto"


def use_kernels(choice: Choice) -> None:
    """Choose for all later calls in this process."""
    global _chosen
    if choice not in ("auto", "reference"):
        raise ValueError(f"kernels is {choice!r}, expected auto or reference")
    _chosen = choice


def chosen_kernels() -> Choice:
    """What was chosen."""
    return _chosen


@contextmanager
def kernels(choice: Choice) -> Iterator[None]:
    """Choose for a while."""
    before = _chosen
    use_kernels(choice)
    try:
        yield
    finally:
        use_kernels(before)


def runs_fast(name: str, x: Tensor, **sizes: int) -> bool:
    """Whether the Triton implementation of this kernel runs for input like `x` and these sizes."""
    if _chosen == "reference" or not HAS_TRITON or not (x.is_cuda or INTERPRETED):
        return False
    kernel = KERNELS[name]
    return type_name(x) in kernel.dtypes and kernel.takes(sizes)


def type_name(x: Tensor) -> str:
    """As declarations call it; types that they do not know keep PyTorch's name."""
    return _TYPES.get(x.dtype, str(x.dtype))


def described() -> str:
    """What runs in this process, for the records of a run."""
    if _chosen == "reference":
        return "reference"
    if not (torch.cuda.is_available() or INTERPRETED):
        return "reference: no CUDA device"
    return "triton" if HAS_TRITON else "reference: triton is not installed"
