"""Example: arguments of a kernel, random, of given sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernel import Kernel, Sizes, find

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Example:
    """Keyword arguments of a kernel, and the names of those that have gradients."""

    arguments: Mapping[str, Any]
    differentiable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Maker:
    """Draws numbers on CPU, alike for every type and device, and brings them there."""

    generator: torch.Generator
    dtype: torch.dtype
    device: torch.device

    def normal(self, *sizes: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        """Normal numbers. `dtype`: another type than the example's; double precision stays what it is."""
        drawn = torch.randn(sizes, generator=self.generator, dtype=torch.float64) * scale
        wide = self.dtype == torch.float64
        return drawn.to(self.device, self.dtype if wide or dtype is None else dtype)

    def integers(self, least: int, most: int, *sizes: int) -> Tensor:
        """Numbers from `least` to below `most`."""
        return torch.randint(least, most, sizes, generator=self.generator).to(self.device)


def example(kernel: Kernel, sizes: Sizes, dtype: str, *, seed: int = 0, device: str = "cpu") -> Example:
    """Arguments of this kernel; equal numbers, as far as types hold them, for equal seeds."""
    maker = Maker(torch.Generator().manual_seed(seed), DTYPES[dtype], torch.device(device))
    made: Example = find(kernel.example)(maker, sizes)
    return made
