"""Solve: the assignment of one step, and how far it is from the best."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from .assignment import Assignment
from .bound import least_rounds, lower_bound_s
from .exact import is_small, solve_exactly
from .greedy import greedy, targets_s
from .improve import improve
from .instance import Instance, check_instance

GAP = 0.01
"""Close enough to stop looking."""


@dataclass(frozen=True, slots=True)
class Solution:
    """An assignment, what no assignment takes less than, and the time to find both."""

    assignment: Assignment
    bound_s: float
    exact: bool
    solver_s: float

    @property
    def seconds(self) -> float:
        """Of the step's rounds."""
        return self.assignment.seconds

    @property
    def gap(self) -> float:
        """The step is at most this share longer than need be."""
        return 0.0 if self.exact or self.seconds == 0 else max(0.0, 1 - self.bound_s / self.seconds)


def solve(instance: Instance, gap: float = GAP) -> Solution:
    """The best assignment of a small step, a good one of a large step. Deterministic.

    Raises ValueError where a sequence fits no group.
    """
    started = time.perf_counter()
    check_instance(instance)
    exact = is_small(instance)
    if exact:
        best = solve_exactly(instance)
        bound_s = best.seconds
    else:
        bound_s = lower_bound_s(instance)
        best = _good(instance, bound_s, gap)
    return Solution(best, bound_s, exact, time.perf_counter() - started)


def _good(instance: Instance, bound_s: float, gap: float) -> Assignment:
    """The best of several targets and numbers of rounds, improved."""
    found: list[Assignment] = []
    for tried in _tried(instance, bound_s):
        found.append(tried)
        if tried.seconds * (1 - gap) <= bound_s:
            return tried
    found.sort(key=lambda each: each.seconds)
    return min((improve(instance, each) for each in found[:2]), key=lambda each: each.seconds)


def _tried(instance: Instance, bound_s: float) -> Iterator[Assignment]:
    """As few rounds as hold the tokens, and one or two more; each degree alone too."""
    least, enough = least_rounds(instance), 0
    rounds = least
    while enough < 3:
        found = [greedy(instance, rounds, float(target)) for target in targets_s(instance, rounds, bound_s)]
        yield from (each for each in found if each is not None)
        enough += any(found)
        rounds += 1 if rounds < 2 * least + 2 else rounds  # ever more, until they hold everything
