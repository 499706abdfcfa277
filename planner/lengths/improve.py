"""Improve: move and swap sequences between groups while a step gets shorter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .assignment import Assignment, assemble, timed
from .instance import Floats, Instance
from .integers import Integers

MOST_CHANGES = 200
SMALLEST = 1e-5
"""Gains below this share of a step are not worth their time."""


@dataclass(slots=True)
class _Groups:
    """Groups of all rounds as arrays; `owner` [n] says which group trains a sequence."""

    place: Integers  # of its degree
    number: Integers  # of its round
    tokens: Integers
    core_s: Floats
    seconds: Floats
    owner: Integers
    rounds: int

    def others_s(self, group: int) -> float:
        """The slowest other group of its round."""
        inside = self.seconds[self.number == self.number[group]]
        return float(np.partition(inside, -2)[-2]) if len(inside) > 1 else 0.0

    def round_s(self) -> Floats:
        """Seconds of each round."""
        found = np.zeros(self.rounds)
        np.maximum.at(found, self.number, self.seconds)
        return found


def improve(instance: Instance, assignment: Assignment, enough_s: float = 0.0) -> Assignment:
    """The same or a faster assignment: sequences of the slowest group of each round go elsewhere, or change places.
    Stops when a step takes `enough_s` or less."""
    groups = _groups(instance, assignment)
    for _ in range(MOST_CHANGES):
        if groups.round_s().sum() <= enough_s:
            break
        if not any(_change(instance, groups, number) for number in np.argsort(-groups.round_s(), kind="stable")):
            break
    packs: list[list[tuple[int, list[int]]]] = [[] for _ in range(groups.rounds)]
    for group, (place, number) in enumerate(zip(groups.place, groups.number, strict=True)):
        members = np.flatnonzero(groups.owner == group).tolist()
        packs[int(number)].append((instance.degrees[int(place)], members))
    better = assemble(timed(instance, each) for each in packs)
    return better if better.seconds < assignment.seconds else assignment


def _groups(instance: Instance, assignment: Assignment) -> _Groups:
    owner = np.zeros(instance.count, dtype=np.int64)
    place: list[int] = []
    number: list[int] = []
    tokens: list[int] = []
    core_s: list[float] = []
    for at, each in enumerate(assignment.rounds):
        for group in each.groups:
            degree, chosen = instance.degrees.index(group.degree), list(group.sequences)
            owner[chosen] = len(place)
            place.append(degree)
            number.append(at)
            tokens.append(int(instance.tokens[chosen, degree].sum()))
            core_s.append(float(instance.core_s[chosen, degree].sum()))
    held, attention = np.array(tokens, dtype=np.int64), np.array(core_s)
    seconds = _seconds(instance, held, attention)
    rounds = len(assignment.rounds)
    return _Groups(np.array(place), np.array(number), held, attention, seconds, owner, rounds)


def _change(instance: Instance, groups: _Groups, number: int) -> bool:
    """One change that shortens the step, starting from the slowest group of a round; False where there is none."""
    inside = np.flatnonzero(groups.number == number)
    slowest = int(inside[np.argmax(groups.seconds[inside])])
    found = [_best(instance, groups, int(i), slowest) for i in np.flatnonzero(groups.owner == slowest)]
    gain, i, other, group = max(found, default=(0.0, -1, -1, -1))  # of a round that has become empty: nothing
    if gain <= SMALLEST * float(groups.round_s().sum()):
        return False
    _move(instance, groups, i, group)
    if other >= 0:
        _move(instance, groups, other, slowest)
    return True


def _best(instance: Instance, groups: _Groups, i: int, slowest: int) -> tuple[float, int, int, int]:
    """What a move of one sequence, or its swap with another, saves at most; with which one (-1: none), to where."""
    place = int(groups.place[slowest])
    left = groups.tokens[slowest] - instance.tokens[i, place], groups.core_s[slowest] - instance.core_s[i, place]
    # to another group
    tokens = groups.tokens + instance.tokens[i, groups.place]
    seconds = _seconds(instance, tokens, groups.core_s + instance.core_s[i, groups.place])
    allowed = tokens <= instance.capacity[groups.place]
    saved = _saved(groups, slowest, _seconds(instance, np.array(left[0]), np.array(left[1])), seconds)
    saved = np.where(allowed & (np.arange(len(saved)) != slowest), saved, -np.inf)
    to = int(np.argmax(saved))
    # for another sequence
    owner = groups.owner
    theirs = groups.place[owner]
    every = np.arange(instance.count)
    back = left[0] + instance.tokens[:, place]
    there = groups.tokens[owner] - instance.tokens[every, theirs] + instance.tokens[i, theirs]
    here_s = _seconds(instance, back, left[1] + instance.core_s[:, place])
    core = groups.core_s[owner] - instance.core_s[every, theirs] + instance.core_s[i, theirs]
    swapped = _saved_at(groups, slowest, here_s, owner, _seconds(instance, there, core))
    allowed = (back <= instance.capacity[place]) & (there <= instance.capacity[theirs]) & (owner != slowest)
    swapped = np.where(allowed, swapped, -np.inf)
    other = int(np.argmax(swapped))
    if swapped[other] > saved[to]:
        return float(swapped[other]), i, other, int(owner[other])
    return float(saved[to]), i, -1, to


def _saved(groups: _Groups, slowest: int, here_s: Floats, seconds: Floats) -> Floats:
    return _saved_at(groups, slowest, here_s, np.arange(len(seconds)), seconds)


def _saved_at(groups: _Groups, slowest: int, here_s: Floats, at: Integers, seconds: Floats) -> Floats:
    """What the step gets shorter if the slowest group of a round takes `here_s` and groups `at` take `seconds`."""
    round_s, number = groups.round_s(), groups.number
    mine = int(number[slowest])
    rest = max(groups.others_s(slowest), 0.0)
    same = number[at] == mine
    alone = round_s[mine] - np.maximum(rest, here_s)
    theirs = np.maximum(round_s[number[at]], seconds) - round_s[number[at]]  # the others of that round stay
    together = round_s[mine] - np.maximum(np.maximum(rest, here_s), seconds)
    found: Floats = np.where(same, together, alone - theirs)
    return found


def _seconds(instance: Instance, tokens: Integers, core_s: Floats) -> Floats:
    """Of groups; those that have become empty take no time."""
    found: Floats = np.where(tokens > 0, instance.seconds(tokens, core_s), 0.0)
    return found


def _move(instance: Instance, groups: _Groups, i: int, group: int) -> None:
    for at, sign in ((int(groups.owner[i]), -1), (group, 1)):
        place = int(groups.place[at])
        groups.tokens[at] += sign * instance.tokens[i, place]
        groups.core_s[at] += sign * instance.core_s[i, place]
        groups.seconds[at] = _seconds(instance, groups.tokens[at : at + 1], groups.core_s[at : at + 1])[0]
    groups.owner[i] = group
