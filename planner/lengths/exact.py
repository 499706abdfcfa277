"""Exact: the best assignment of a small step, by dynamic programming over counts of equal sequences.

A state says how many sequences of each kind are left. `round(state, lanes)` is the least time in which one round of so
many lanes trains all of a state, group after group; the step is the cheapest way to split all sequences into rounds.
Each takes the first kind that is left first, so that equal splits in another order are not looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import product

import numpy as np

from .assignment import Assignment, assemble, timed
from .instance import Floats, Instance

MOST_STEPS = 30_000
"""Pairs of a state and what a group takes of it, times degrees: below half a second."""

Counts = tuple[int, ...]


def is_small(instance: Instance) -> bool:
    """Whether `solve_exactly` looks at few enough states."""
    pairs = 1
    for count in Counter(_keys(instance)).values():
        pairs *= (count + 1) * (count + 2) // 2
        if pairs * len(instance.degrees) > MOST_STEPS:
            return False
    return True


def solve_exactly(instance: Instance) -> Assignment:
    """No assignment is faster. For instances that `is_small`."""
    if instance.count == 0:
        return Assignment(())
    return _Search(instance).solve()


def _keys(instance: Instance) -> list[bytes]:
    """Equal for sequences that cost the same."""
    return [row.tobytes() + core.tobytes() for row, core in zip(instance.tokens, instance.core_s, strict=True)]


class _Search:
    """The tables of one instance."""

    def __init__(self, instance: Instance):
        self.instance = instance
        members: dict[bytes, list[int]] = {}
        for number, key in enumerate(_keys(instance)):
            members.setdefault(key, []).append(number)
        self.members = list(members.values())
        self.all = tuple(len(each) for each in self.members)
        self.none = (0,) * len(self.all)
        firsts = [each[0] for each in self.members]
        self.tokens, self.core_s = instance.tokens[firsts], instance.core_s[firsts]
        self.rounds: dict[Counts, Floats] = {self.none: np.zeros(instance.lanes + 1)}  # seconds, by lanes
        self.groups: dict[Counts, list[tuple[Counts, int]]] = {}  # looked at, of a state
        self.taken: dict[Counts, list[int]] = {}  # which of them is best, by lanes

    def solve(self) -> Assignment:
        """Fill the tables from the smallest state up, and read the best split off them."""
        best: dict[Counts, tuple[float, Counts]] = {self.none: (0.0, self.none)}
        for state in product(*(range(count + 1) for count in self.all)):
            if state == self.none:
                continue
            self._fill(state)
            best[state] = min(
                (float(self.rounds[part][-1]) + best[_less(state, part)][0], part) for part in _parts(state)
            )
        if not math.isfinite(best[self.all][0]):
            raise ValueError("a sequence fits no group")
        rounds, left = [], self.all
        while left != self.none:
            part = best[left][1]
            rounds.append(self._packs(part))
            left = _less(left, part)
        return assemble(timed(self.instance, groups) for groups in self._named(rounds))

    def _fill(self, state: Counts) -> None:
        """The least time of a round with this state, for every number of lanes."""
        lanes = self.instance.lanes
        found, chosen = np.full(lanes + 1, np.inf), np.full(lanes + 1, -1)
        looked: list[tuple[Counts, int]] = []
        for part in _parts(state):
            rest = self.rounds[_less(state, part)]
            for place, seconds in self._costs(part):
                degree = self.instance.degrees[place]
                tried = np.full(lanes + 1, np.inf)
                tried[degree:] = np.maximum(seconds, rest[: lanes + 1 - degree])
                better = tried < found
                found, chosen = np.where(better, tried, found), np.where(better, len(looked), chosen)
                looked.append((part, place))
        self.rounds[state], self.groups[state], self.taken[state] = found, looked, chosen.tolist()

    def _costs(self, part: Counts) -> Iterator[tuple[int, float]]:
        """Degrees, by their place, that hold a pack, and its seconds."""
        counts = np.array(part)
        tokens, core_s = counts @ self.tokens, counts @ self.core_s
        seconds = self.instance.seconds(tokens, core_s)
        for place in np.flatnonzero(tokens <= self.instance.capacity):
            yield int(place), float(seconds[place])

    def _packs(self, state: Counts) -> list[tuple[int, Counts]]:
        """The groups of the best round with this state."""
        found, lanes = [], self.instance.lanes
        while state != self.none:
            part, place = self.groups[state][self.taken[state][lanes]]
            found.append((self.instance.degrees[place], part))
            state, lanes = _less(state, part), lanes - self.instance.degrees[place]
        return found

    def _named(self, rounds: list[list[tuple[int, Counts]]]) -> Iterator[list[tuple[int, list[int]]]]:
        """Counts of kinds as sequences."""
        left = [list(reversed(each)) for each in self.members]
        for packs in rounds:
            yield [
                (degree, [left[kind].pop() for kind, count in enumerate(part) for _ in range(count)])
                for degree, part in packs
            ]


def _parts(state: Counts) -> Iterator[Counts]:
    """What can be taken of a state that takes of its first kind."""
    first = next(place for place, count in enumerate(state) if count)
    ranges = [range(1 if place == first else 0, count + 1) for place, count in enumerate(state)]
    yield from product(*ranges)


def _less(state: Counts, part: Counts) -> Counts:
    return tuple(count - taken for count, taken in zip(state, part, strict=True))
