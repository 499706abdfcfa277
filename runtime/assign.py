"""Assign: which group of which round trains each sequence of a step, as the plan has priced it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist

from ..planner.cost.setting import Setting
from ..planner.families import architecture
from ..planner.frameworks.framework import framework
from ..planner.lengths.assignment import Assignment
from ..planner.lengths.predict import prices_with
from ..planner.lengths.solve import solve
from ..planner.plan import Plan


class Assigner:
    """Solves steps on the first rank, for all: ranks that disagreed would wait for each other for ever."""

    def __init__(self, plan: Plan):
        assert plan.mix is not None
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        if self._rank == 0:
            priced = framework(plan.framework)
            setting = Setting(architecture(plan.model), plan.cluster, plan.job, every_device=False, framework=priced)
            self._prices = prices_with(setting, plan.configuration, plan.mix)

    def assign(self, lengths: Sequence[int]) -> Assignment:
        """Sequences, by their place in `lengths` (tokens trained of each), to groups. Every rank calls this."""
        found: list[Assignment | None] = [None]
        if self._rank == 0:
            found = [solve(self._prices.instance(np.array(lengths, dtype=np.int64))).assignment]
        if dist.is_initialized():
            dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
        assert found[0] is not None
        return found[0]
