"""Bytes that a layer holds, as a caching allocator of the test's own counts them: what stays, and its fragments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from meshwright.profiler import memory

BLOCK = 1000


class Allocator:
    """Stands for CUDA's: what is there, the most that was, and blocks that it took for it."""

    def __init__(self) -> None:
        self.there = self.peak = 300

    def take(self, count: int) -> None:
        self.there += count
        self.peak = max(self.peak, self.there)

    @property
    def blocks(self) -> int:
        return -(-self.peak // BLOCK) * BLOCK

    def reset(self, _: Any) -> None:
        self.peak = self.there


@pytest.mark.parametrize(("kept", "passing"), [(500, 1200), (500, 700), (1700, 0)])
def test_what_stays_and_fragments_are_told_from_what_passes(
    kept: int, passing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator = Allocator()
    stands = {
        "synchronize": lambda _: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": allocator.reset,
        "memory_allocated": lambda _: allocator.there,
        "memory_reserved": lambda _: allocator.blocks,
        "max_memory_allocated": lambda _: allocator.peak,
        "max_memory_reserved": lambda _: allocator.blocks,
    }
    for name, function in stands.items():
        monkeypatch.setattr(torch.cuda, name, function)

    def forward() -> Tensor:
        allocator.take(kept + passing)
        allocator.take(-passing)
        return torch.ones(1, requires_grad=True) * 2

    found = memory.measure(forward, [], torch.device("cuda"))
    assert found.kept_bytes == kept
    taken = -(-(300 + kept + passing) // BLOCK) * BLOCK - BLOCK  # 300 were there, in a block of their own
    assert found.fragments == pytest.approx(max(0.0, taken / (kept + passing) - 1))
