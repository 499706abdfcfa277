"""Memory: where programs write, and tensors seen as matrices of rows, without copies where that can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def empty(sizes: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Where a program writes. Tests put poison and guard bands here."""
    return torch.empty(tuple(sizes), dtype=like.dtype if dtype is None else dtype, device=like.device)


@dataclass(frozen=True, slots=True)
class Rows:
    """The leading dimensions of a tensor in the order in which they lie in memory, so that heads seen through a
    transpose are rows as they are; what is computed from it comes out in the same order."""

    sizes: tuple[int, ...]
    order: tuple[int, ...]

    @staticmethod
    def of(x: Tensor) -> Rows:
        strides = x.stride()
        order = sorted(range(x.ndim - 1), key=lambda dim: strides[dim], reverse=True)
        return Rows(tuple(x.shape[:-1]), tuple(order))

    def matrix(self, x: Tensor) -> Tensor:
        """[rows, width], rows a constant stride apart, their entries neighbours."""
        rows = x.permute(*self.order, x.ndim - 1).reshape(self.count, x.shape[-1])
        return rows if rows.stride(-1) == 1 or rows.shape[-1] <= 1 else rows.contiguous()

    def restore(self, matrix: Tensor) -> Tensor:
        """The opposite."""
        width = matrix.shape[-1]
        back = [self.order.index(dim) for dim in range(len(self.order))]
        return matrix.view(*(self.sizes[dim] for dim in self.order), width).permute(*back, len(back))

    @property
    def count(self) -> int:
        """How many rows there are."""
        product = 1
        for size in self.sizes:
            product *= size
        return product
