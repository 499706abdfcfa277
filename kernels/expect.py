"""Expect: arguments of kernels are refused at once, with what was expected and what was given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shape(kernel: str, name: str, x: Tensor, expected: Sequence[int]) -> None:
    """Raise ValueError unless `x` has this shape."""
    if tuple(x.shape) != tuple(expected):
        raise ValueError(f"{kernel}: {name} has shape {list(x.shape)}, expected {list(expected)}")


def rank(kernel: str, name: str, x: Tensor, expected: int) -> None:
    """Raise ValueError unless `x` has exactly so many dimensions."""
    if x.ndim != expected:
        raise ValueError(f"{kernel}: {name} has {x.ndim} dimensions, expected {expected}")


def dims(kernel: str, name: str, x: Tensor, least: int) -> None:
    """Raise ValueError unless `x` has so many dimensions."""
    if x.ndim < least:
        raise ValueError(f"{kernel}: {name} has {x.ndim} dimensions, expected at least {least}")


def dtype(kernel: str, name: str, x: Tensor, *expected: torch.dtype) -> None:
    """Raise TypeError unless `x` is of one of these types."""
    if x.dtype not in expected:
        raise TypeError(f"{kernel}: {name} is {x.dtype}, expected {' or '.join(map(str, expected))}")


def floating(kernel: str, **tensors: Tensor | None) -> None:
    """Raise TypeError unless all are of floating point."""
    for name, x in tensors.items():
        if x is not None and not x.is_floating_point():
            raise TypeError(f"{kernel}: {name} is {x.dtype}, expected a floating point type")


def one_device(kernel: str, **tensors: Tensor | None) -> None:
    """Raise ValueError unless all are on the device of the first."""
    given = [(name, x) for name, x in tensors.items() if x is not None]
    first_name, first = given[0]
    for name, x in given[1:]:
        if x.device != first.device:
            raise ValueError(f"{kernel}: {name} is on {x.device}, expected {first.device}, where {first_name} is")


def dense_rows(kernel: str, name: str, x: Tensor) -> None:
    """Raise ValueError unless neighbours in the last dimension are neighbours in memory: what is written in place is
    not copied."""
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        raise ValueError(f"{kernel}: {name} has stride {x.stride(-1)} in its last dimension, expected 1")
