"""Assignment: which group of which round trains each sequence of a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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


Pack = tuple[int, tuple[int, ...]]
"""A degree and the sequences of one group."""


def assemble(instance: Instance, rounds: Iterable[Iterable[Pack]]) -> Assignment:
    """Packs of each round on lanes. Wide groups come first, so that every group starts at a multiple of its degree."""
    laid = [_laid(instance, packs) for packs in rounds]
    return Assignment(tuple(sorted((each for each in laid if each.groups), key=lambda each: -each.seconds)))


def _laid(instance: Instance, packs: Iterable[Pack]) -> Round:
    first, groups = 0, []
    ordered = sorted((degree, tuple(sorted(sequences))) for degree, sequences in packs if sequences)
    for degree, sequences in sorted(ordered, key=lambda pack: (-pack[0], pack[1])):
        groups.append(Group(degree, first, sequences, pack_s(instance, degree, sequences)))
        first += degree
    return Round(tuple(groups))


def pack_s(instance: Instance, degree: int, sequences: Iterable[int]) -> float:
    """Seconds of one group."""
    place, chosen = instance.degrees.index(degree), list(sequences)
    tokens, core_s = instance.tokens[chosen, place].sum(), instance.core_s[chosen, place].sum()
    return float(instance.seconds(tokens, core_s))


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
