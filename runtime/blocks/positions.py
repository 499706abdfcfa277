"""Positions: where in its sequence each token of this rank stands."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Order = Callable[[int, torch.device], Tensor]


class Positions:
    """One object for all blocks of a stage; `order` says which tokens of a sequence this rank has, and in what order.

    Every rank has all of them unless context parallelism replaces `order` before the first use. Between blocks, a
    rank of `ranks` has the `rank`-th equal part of these where (Megatron) sequence parallelism says so.
    """

    def __init__(self) -> None:
        self.order: Order = lambda length, device: torch.arange(length, device=device)
        self.rank, self.ranks = 0, 1
        self.version = 0  # another one for every microbatch, where positions change from one to the next

    def of(self, length: int, device: torch.device) -> Tensor:
        """Global positions, int64 [length], of the `length` tokens that this rank has of each sequence."""
        return self.order(length, device)

    def between_blocks(self, length: int, device: torch.device) -> Tensor:
        """Global positions, int64 [length], of the `length` hidden states that this rank has between blocks."""
        return self.of(length * self.ranks, device)[self.rank * length : (self.rank + 1) * length]
