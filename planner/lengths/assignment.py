"""Assignment: which group of which round trains each sequence of a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .instance import Instance


@dataclass(frozen=True, slots=True)
class Group:
    """Lanes `first` to `first + degree` of one round, and the sequences that they pack."""

    degree: int
    first: int
    sequences: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Round:
    """Groups in the order of their lanes; lanes of no group have nothing to do."""

    groups: tuple[Group, ...]

    @property
    def seconds(self) -> float:
        return max(group.seconds for group in self.groups)


@dataclass(frozen=True, slots=True)
class Assignment:
    """All rounds of a step, in the order in which they run: the longest first."""

    rounds: tuple[Round, ...]

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.rounds)

    @property
    def degrees(self) -> tuple[int, ...]:
        """Those of its groups, ascending."""
        return tuple(sorted({group.degree for each in self.rounds for group in each.groups}))


class Pack(NamedTuple):
    """One group before it has lanes."""

    degree: int
    sequences: tuple[int, ...]
    seconds: float


def timed(instance: Instance, groups: Sequence[tuple[int, Sequence[int]]]) -> list[Pack]:
    """Groups, as a degree and sequences, with their seconds; empty ones are left out."""
    groups = [(degree, sequences) for degree, sequences in groups if len(sequences)]
    places = {degree: place for place, degree in enumerate(instance.degrees)}
    sizes = [len(sequences) for _, sequences in groups]
    chosen = np.array([i for _, sequences in groups for i in sequences], dtype=np.int64)
    place = np.repeat([places[degree] for degree, _ in groups], sizes).astype(np.int64)
    owner = np.repeat(np.arange(len(groups)), sizes)
    tokens = np.bincount(owner, instance.tokens[chosen, place], minlength=len(groups))
    core_s = np.bincount(owner, instance.core_s[chosen, place], minlength=len(groups))
    seconds = instance.seconds(tokens.astype(np.float64), core_s.astype(np.float64))
    return [
        Pack(degree, tuple(sorted(map(int, sequences))), float(each))
        for (degree, sequences), each in zip(groups, seconds, strict=True)
    ]


def assemble(rounds: Iterable[Iterable[Pack]]) -> Assignment:
    """Packs of each round on lanes. Wide groups come first, so that every group starts at a multiple of its degree."""
    laid = [_laid(packs) for packs in rounds]
    return Assignment(tuple(sorted((each for each in laid if each.groups), key=lambda each: -each.seconds)))


def _laid(packs: Iterable[Pack]) -> Round:
    first, groups = 0, []
    for degree, sequences, seconds in sorted(packs, key=lambda pack: (-pack.degree, pack.sequences)):
        groups.append(Group(degree, first, sequences, seconds))
        first += degree
    return Round(tuple(groups))


def faults(instance: Instance, assignment: Assignment) -> list[str]:
    """What is wrong with an assignment, in words; empty where it can be run."""
    found, seen = [], sorted(i for each in assignment.rounds for group in each.groups for i in group.sequences)
    if seen != list(range(instance.count)):
        found.append("not every sequence is trained once")
    for number, each in enumerate(assignment.rounds):
        end = 0
        for group in each.groups:
            place = instance.degrees.index(group.degree)
            if group.first < end or group.first % group.degree or group.first + group.degree > instance.lanes:
                found.append(f"round {number}: lane {group.first} is taken, not aligned or none")
            end = group.first + group.degree
            if instance.tokens[list(group.sequences), place].sum() > instance.capacity[place]:
                found.append(f"round {number}: the group at lane {group.first} holds too many tokens")
    return found
