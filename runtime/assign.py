"""Assign: which group of which round trains each sequence of a step, as the plan has priced it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ..errors import RunError
from ..planner.lengths.assignment import Assignment
from ..planner.lengths.serve import assignment_of, from_json, prices_of_plan
from ..planner.plan import Plan


class Here:
    """In this process, when it is asked."""

    def __init__(self, plan: Plan):
        self._prices = prices_of_plan(plan)

    def solve(self, lengths: list[int], following: list[int]) -> Assignment:
        return assignment_of(self._prices, lengths)


class Beside:
    """In a process of its own, which is asked for the next step as soon as one begins."""

    def __init__(self, plan_file: Path):
        command = [sys.executable, "-m", "meshwright.planner.lengths.serve", str(plan_file)]
        self._process = subprocess.Popen(  # a session of its own: it ends with its input, not by our signals
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._asked: list[int] | None = None

    def solve(self, lengths: list[int], following: list[int]) -> Assignment:
        if self._asked != lengths:
            if self._asked is not None:
                self._answer()
            self._ask(lengths)
        found = self._answer()
        self._ask(following)
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def _ask(self, lengths: list[int]) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(lengths), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise RunError("the process that assigns sequences to groups has ended; its words are above") from None
        self._asked = lengths

    def _answer(self) -> Assignment:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RunError("the process that assigns sequences to groups has ended; its words are above")
        return from_json(json.loads(line))


class Assigner:
    """Solves steps on the first rank, for all: ranks that disagreed would wait for each other for ever."""

    def __init__(self, plan: Plan, plan_file: Path | None = None):
        """With its file, beside the steps."""
        self._solver: Here | Beside | None = None
        if not dist.is_initialized() or dist.get_rank() == 0:
            self._solver = Here(plan) if plan_file is None else Beside(plan_file)

    def assign(self, lengths: list[int], following: list[int]) -> Assignment:
        """Sequences, by their place in `lengths` (tokens trained of each), to groups. Every rank calls this."""
        found: list[Assignment | None] = [None]
        if self._solver is not None:
            found = [self._solver.solve(lengths, following)]
        if dist.is_initialized():
            dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
        assert found[0] is not None
        return found[0]

    def close(self) -> None:
        """After the last step."""
        if isinstance(self._solver, Beside):
            self._solver.close()
