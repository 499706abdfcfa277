"""Solve: the assignment of one step, and how far it is from the best."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .assignment import Assignment, assemble, timed
from .bound import least_rounds, lower_bound_s
from .exact import is_small, solve_exactly
from .greedy import Rounds, deal, greedy, step_s
from .improve import improve
from .instance import Instance, check_instance

Manner = tuple[bool, float | None]
Tried = tuple[float, Manner]
"""A target in shares of the bound, and the manner."""

GAP = 0.01
"""Close enough to stop looking."""
TARGETS = (1.04, 1.4, 1.1, 1.2, 1.7)
"""Times of a round that are tried, in shares of the bound's."""
MANNERS: tuple[Manner, ...] = ((False, None), (True, None), (True, 0.3))
"""`loose` and `waste` of `greedy`."""
FAR = 0.05
MORE_ROUNDS = 4
STEPS = (0.04, 0.02)
"""How far from the best of them others are tried."""


@dataclass(frozen=True, slots=True)
class Solution:
    """An assignment, what no assignment takes less than, and the CPU seconds to find both."""

    assignment: Assignment
    bound_s: float
    exact: bool
    cpu_s: float

    @property
    def seconds(self) -> float:
        """Of the step's rounds."""
        return self.assignment.seconds

    @property
    def gap(self) -> float:
        """The step is at most this share longer than need be."""
        return 0.0 if self.exact or self.seconds == 0 else max(0.0, 1 - self.bound_s / self.seconds)


def solve(instance: Instance, gap: float = GAP, *, quick: bool = False) -> Solution:
    """The best assignment of a small step, a good one of a large step. Deterministic. `quick` tries less.

    Raises ValueError where a sequence fits no group.
    """
    started = time.process_time()
    check_instance(instance)
    exact = is_small(instance)
    if exact:
        best = solve_exactly(instance)
        bound_s = best.seconds
    else:
        bound_s = lower_bound_s(instance)
        best = _good(instance, bound_s, gap, quick)
    return Solution(best, bound_s, exact, time.process_time() - started)


def _good(instance: Instance, bound_s: float, gap: float, quick: bool = False) -> Assignment:
    """The best of several numbers of rounds and targets, improved."""
    best = _Best(instance, bound_s, gap, quick)
    for degree in instance.degrees:
        best.try_one(degree)
    least = rounds = least_rounds(instance)
    worse = 0
    while worse < 2 and rounds <= 2 * least + MORE_ROUNDS and not best.is_close:
        before = best.seconds
        held = best.try_rounds(rounds)
        worse += held and best.seconds >= before
        rounds += 1 if held else max(1, rounds // 8)
    found = assemble(best.rounds)
    return found if best.is_close or quick else improve(instance, found, bound_s / (1 - gap))


class _Best:
    """The best assignment so far."""

    def __init__(self, instance: Instance, bound_s: float, gap: float, quick: bool):
        self.instance, self.bound_s, self.gap, self.quick = instance, bound_s, gap, quick
        fastest = instance.alone_s().argmin(axis=1).tolist()  # each in a group of its own
        self.rounds = deal(
            instance.lanes, timed(instance, [(instance.degrees[at], [i]) for i, at in enumerate(fastest)])
        )
        self.seconds = step_s(self.rounds)

    @property
    def is_close(self) -> bool:
        return self.seconds * (1 - self.gap) <= self.bound_s

    def try_one(self, degree: int) -> None:
        """All groups of one degree, as many rounds as they need."""
        one = self.instance.only(degree)
        if not one.fits.all():
            return
        rounds = least_rounds(one)
        while (tried := greedy(one, rounds, self.bound_s)) is None:
            rounds += max(1, rounds // 8)
        self._keep(tried)

    def try_rounds(self, rounds: int) -> bool:
        """Several targets, then finer ones around the best; False where none of the first two holds the sequences.
        Where these are far from the best of other numbers of rounds, the others are not tried."""
        found: dict[Tried, float] = {}
        for number, target in enumerate(TARGETS):
            for manner in MANNERS:
                self._try(rounds, (target, manner), found)
            if number == 1 and (not found or min(found.values()) * (1 - FAR) > self.seconds):
                return bool(found)
        for step in () if self.quick or not found else STEPS:
            middle, manner = min(found, key=lambda tried: found[tried])
            self._try(rounds, (middle * (1 - step), manner), found)
            self._try(rounds, (middle * (1 + step), manner), found)
        return bool(found)

    def _try(self, rounds: int, wanted: Tried, found: dict[Tried, float]) -> None:
        target, (loose, waste) = wanted
        if self.is_close or wanted in found:
            return
        tried = greedy(self.instance, rounds, target * self.bound_s / rounds, loose=loose, waste=waste)
        if tried is not None:
            found[wanted] = self._keep(tried)

    def _keep(self, tried: Rounds) -> float:
        """Remember the best; the seconds of this one."""
        seconds = step_s(tried)
        if seconds < self.seconds:
            self.rounds, self.seconds = tried, seconds
        return seconds
