"""Guarded: tensors that lie in larger ones, for whatever reads or writes beyond its own.

Around inputs is NaN, which spoils what is computed from it. Around outputs is a number instead: a NaN that is written
beyond an output would not be seen among others.
"""

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

    bands: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    inputs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def empty(self, sizes: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """In place of `fast.memory.empty`: full of poison, between bands."""
        dtype = like.dtype if dtype is None else dtype
        return self._between(sizes, like, dtype, 77.0 if dtype.is_floating_point else _MARK[dtype])

    def _between(self, sizes: Sequence[int], like: Tensor, dtype: torch.dtype, band: float) -> Tensor:
        """Poison, between bands of this number."""
        count = torch.Size(sizes).numel()
        whole = torch.full((count + 2 * BAND,), band, dtype=dtype, device=like.device)
        inside = whole[BAND : BAND + count].fill_(_mark(dtype))
        self.bands += [(part, part.clone()) for part in (whole[:BAND], whole[BAND + count :])]
        return inside.view(tuple(sizes))

    def within(self, x: Tensor) -> Tensor:
        """Numbers of `x`, contiguous, between bands."""
        held = self._between(x.shape, x, x.dtype, _mark(x.dtype))
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
        for band, before in self.bands:
            assert _same(band, before), "wrote beyond its output"
        for held, before in self.inputs:
            assert _same(held, before), "wrote to its input"
