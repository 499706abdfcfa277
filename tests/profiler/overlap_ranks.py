"""What ranks do in test_overlap.py."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from meshwright.profiler import overlap
from meshwright.profiler.parts import Asked, Setting

CPU = torch.device("cpu")


def setting_of(budget_s: float) -> Setting:
    """Of this rank."""
    return Setting(CPU, dist.get_rank(), dist.get_world_size(), budget_s, Path(), Asked(), lambda _: None)


def buffers(budgets_s: list[float], bytes_per_s: float) -> list[int]:
    """Elements that are summed up with these budgets, on links of such a rate."""
    sums = dist.all_reduce

    def slow(tensor: torch.Tensor, *given: Any, **named: Any) -> Any:
        time.sleep(tensor.nbytes / bytes_per_s)
        return sums(tensor, *given, **named)

    with mock.patch.object(dist, "all_reduce", slow):
        return [overlap.buffer_of(setting_of(budget_s), lambda: None).numel() for budget_s in budgets_s]


def rounds(budget_s: float) -> list[list[float]]:
    """What is measured."""
    found: list[list[float]] = overlap.measure(setting_of(budget_s))["rounds"]
    return found
