"""What ranks do in test_overlap.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from meshwright.profiler import overlap
from meshwright.profiler.parts import Asked, Setting

CPU = torch.device("cpu")


def setting_of(budget_s: float) -> Setting:
    """Of this rank."""
    return Setting(CPU, dist.get_rank(), dist.get_world_size(), budget_s, Path(), Asked(), lambda _: None)


def buffers(budgets_s: list[float], part_s: list[float]) -> list[int]:
    """Elements that are summed up with these budgets, where a part of them takes so long on each rank."""

    def told(run: Callable[[], object], finish: Callable[[], object]) -> float:
        run()
        return part_s[dist.get_rank()]

    with mock.patch.object(overlap, "_timed", told):
        return [overlap.buffer_of(setting_of(budget_s), lambda: None).numel() for budget_s in budgets_s]


def rounds(budget_s: float) -> list[list[float]]:
    """What is measured."""
    found: list[list[float]] = overlap.measure(setting_of(budget_s))["rounds"]
    return found
