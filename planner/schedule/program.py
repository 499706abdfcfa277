"""Program: the executable order of a schedule with everything looked up that an interpreter needs in each step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from .action import Action

if TYPE_CHECKING:
    from .schedule import Schedule

FORWARD, BACKWARD, FIRST_FORWARD, LAST_BACKWARD, GRADIENT, HALF, PASS = 1, 2, 4, 8, 16, 32, 64
"""What an action is to its stage, as bits: an interpreter asks in one test what it must do beside computing. B, I and W
are BACKWARD; B and W leave GRADIENTs of weights, the last of a stage LAST_BACKWARD; I and W are each a HALF. PASSes
belong to no stage (`passes.py`)."""

BACKWARDS = {"B": BACKWARD | GRADIENT, "I": BACKWARD | HALF, "W": BACKWARD | HALF | GRADIENT}

PASSES = 4
"""Kinds of passes; each microbatch has a slot of each."""

GROUPS = "FBIW"
"""Times stand in groups: of forwards by stage, then of B, of I, of W."""


class Instruction(NamedTuple):
    """An action as numbers. Results stand in slots: of forwards stage by stage, of B and I, of W, then one that is
    always there. Links are those of Schedule.links."""

    slot: int
    needed: int  # the slot of the result that another rank sends
    group: int
    rank: int
    link: int
    turn: int  # bits of FORWARD to HALF


made = partial(tuple.__new__, Instruction)
"""Without a call of Python's own: there are tens of thousands."""

Link = tuple[int, int]
"""Sending and receiving rank."""


def links_of(schedule: Schedule) -> tuple[Link, ...]:
    """By sending rank those to the next rank, those to the one before it, and those of a rank to itself, for what is
    not sent; then any others that a placement asks for."""
    ranks = schedule.ranks
    known: list[Link] = [(rank, (rank + 1) % ranks) for rank in range(ranks)]
    known += [(rank, (rank - 1) % ranks) for rank in range(ranks)]
    known += [(rank, rank) for rank in range(ranks)]
    for stage in range(schedule.stages - 1):
        here, there = schedule.places[stage], schedule.places[stage + 1]
        known += [link for link in ((here, there), (there, here)) if here != there and link not in known]
    return tuple(known)


def slots(schedule: Schedule) -> int:
    """Slots of results, the one that is always there included."""
    stages = (3 if schedule.splits else 2) * schedule.stages
    return (stages + (PASSES if schedule.spread else 0)) * schedule.microbatches + 1


def program_of(schedule: Schedule) -> Iterator[Instruction]:
    """The instructions of a schedule, in its executable order."""
    order = schedule.order
    return map(Instructions(schedule).of, order)


class Instructions:
    """What every action of a complete schedule is as numbers."""

    def __init__(self, schedule: Schedule):
        self._count, self._stages, self._ranks = schedule.microbatches, schedule.stages, schedule.ranks
        self._places, self._nothing = schedule.places, slots(schedule) - 1
        self._ways = tuple(_ways(schedule, ahead) for ahead in (1, -1))
        own = [[action for row in schedule.actions for action in row if action.kind in kinds] for kinds in ("F", "BW")]
        self._firsts = {action.stage: action for action in reversed(own[0])}
        self._lasts = {action.stage: action for action in own[1]}

    def of(self, action: Action) -> Instruction:
        """One of them."""
        kind, stage, microbatch = action
        count, stages, rank = self._count, self._stages, self._places[stage]
        slot, nothing, group = stage * count + microbatch, self._nothing, GROUPS.index(kind) * stages + stage
        if kind == "F":
            turn = FORWARD | (FIRST_FORWARD if action == self._firsts[stage] else 0)
            needed = slot - count if stage else nothing
            return made((slot, needed, group, rank, self._ways[0][stage], turn))
        turn = BACKWARDS[kind] | (LAST_BACKWARD if action == self._lasts.get(stage) else 0)
        slot += stages * count
        if kind == "W":
            return made((slot + stages * count, nothing, group, rank, 2 * self._ranks + rank, turn))
        needed = slot + count if stage < stages - 1 else nothing
        return made((slot, needed, group, rank, self._ways[1][stage], turn))


def _ways(schedule: Schedule, ahead: int) -> list[int]:
    """The link on which each stage sends to the one `ahead`, where that is on another rank. Neighbours that are both
    the next and the one before (two ranks) send forwards on one link and backwards on the other."""
    ranks, found = schedule.ranks, []
    for stage in range(schedule.stages):
        there = stage + ahead
        here = schedule.places[stage]
        if not 0 <= there < schedule.stages or schedule.places[there] == here:
            found.append(2 * ranks + here)
        elif ahead < 0 and schedule.links[ranks + here] == (here, schedule.places[there]):
            found.append(ranks + here)
        else:
            found.append(schedule.links.index((here, schedule.places[there])))
    return found
