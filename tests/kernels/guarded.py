"""Guarded: tensors that lie in larger ones full of NaN, for whatever reads or writes beyond its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

BAND = 64  # numbers before and after: a few vectors of 128 bits
_MARK = {torch.int64: -(2**62), torch.int32: -(2**30), torch.int8: -77, torch.uint8: 177, torch.bool: True}


def _mark(dtype: torch.dtype) -> float | int | bool:
    return torch.nan if dtype.is_floating_point else _MARK[dtype]


def _same(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(found, nan=7e4), torch.nan_to_num(expected, nan=7e4))


@dataclass
class Guard:
    """Hands out poisoned places to write to, and knows what may never have changed."""

    bands: list[Tensor] = field(default_factory=list)
    inputs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def empty(self, sizes: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """In place of `fast.memory.empty`: full of poison, between bands."""
        count, dtype = torch.Size(sizes).numel(), like.dtype if dtype is None else dtype
        whole = torch.full((count + 2 * BAND,), _mark(dtype), dtype=dtype, device=like.device)
        self.bands += [whole[:BAND], whole[BAND + count :]]
        return whole[BAND : BAND + count].view(tuple(sizes))

    def within(self, x: Tensor) -> Tensor:
        """Numbers of `x`, contiguous, between bands."""
        held = self.empty(x.shape, x)
        held.copy_(x)
        self.inputs.append((held, x.clone()))
        return held

    def strided(self, x: Tensor) -> Tensor:
        """Numbers of `x` as a part of a larger tensor in every dimension, neighbours in the last one."""
        if x.ndim == 0:
            return self.within(x)
        whole = torch.full([size + 2 for size in x.shape], _mark(x.dtype), dtype=x.dtype, device=x.device)
        part = whole[tuple(slice(1, 1 + size) for size in x.shape)]
        part.copy_(x)
        self.inputs.append((whole, whole.clone()))
        return part

    def transposed(self, x: Tensor) -> Tensor:
        """Numbers of `x` with the two dimensions before the last the other way around in memory."""
        if x.ndim < 3:
            return self.strided(x)
        return self.within(x.transpose(-3, -2).contiguous()).transpose(-3, -2)

    def check(self) -> None:
        """Assert that no band and no input has changed."""
        for band in self.bands:
            assert _same(band, torch.full_like(band, _mark(band.dtype))), "wrote beyond its output"
        for held, before in self.inputs:
            assert _same(held, before), "wrote to its input"
