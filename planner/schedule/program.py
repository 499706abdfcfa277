"""Program: the executable order of a schedule with everything looked up that an interpreter needs in each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .action import Action

if TYPE_CHECKING:
    from .schedule import Schedule

FORWARD, BACKWARD, FIRST_FORWARD, LAST_BACKWARD, GRADIENT, HALF, PASS = 1, 2, 4, 8, 16, 32, 64
"""What an action is to its stage, as bits: an interpreter asks in one test what it must do beside computing. B, I and W
are BACKWARD; B and W leave GRADIENTs of weights, the last of a stage LAST_BACKWARD; I and W are each a HALF. PASSes
belong to no stage (`passes.py`)."""

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
    count, stages = schedule.microbatches, schedule.stages
    nothing = slots(schedule) - 1
    firsts = {action.stage: action for action in reversed(schedule.order) if action.kind == "F"}
    lasts = {action.stage: action for action in schedule.order if action.kind in "BW"}
    forwards, backwards = (_ways(schedule, ahead) for ahead in (1, -1))
    for action in schedule.order:
        kind, stage, microbatch = action
        slot, rank = stage * count + microbatch, schedule.places[stage]
        group = GROUPS.index(kind) * stages + stage
        turn = _turn(action, firsts[stage], lasts[stage])
        if kind == "F":
            yield Instruction(slot, slot - count if stage else nothing, group, rank, forwards[stage], turn)
        elif kind == "W":
            yield Instruction(slot + 2 * stages * count, nothing, group, rank, 2 * schedule.ranks + rank, turn)
        else:
            slot += stages * count
            needed = slot + count if stage < stages - 1 else nothing
            yield Instruction(slot, needed, group, rank, backwards[stage], turn)


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


def _turn(action: Action, first: Action, last: Action) -> int:
    if action.kind == "F":
        return FORWARD | (FIRST_FORWARD if action == first else 0)
    whole = 0 if action.kind == "B" else HALF
    gradient = 0 if action.kind == "I" else GRADIENT
    return BACKWARD | whole | gradient | (LAST_BACKWARD if action == last else 0)
