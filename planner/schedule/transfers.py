"""Transfers: where every send and receive stands in the rows of a schedule, so that sends may block until received.

Actions are played at one second each (two for a whole backward), and a result is sent when it is there. In the order of
time that gives, every transfer stands between the action that made it and the action that needs it, and each rank's
row is a part of that order. Therefore no two ranks can wait for each other: of all that has not happened yet, what
comes first in time stands first in the rows of all that take part in it. `check_transfers` proves it of the rows
themselves, and no step runs from rows that it has not seen (`rows.py`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .action import SECONDS, Action
from .passes import Pass, Played
from .schedule import Schedule

Direction = Literal["F", "B"]


class Transfer(NamedTuple):
    """One end of a result on its way: activations forwards (F), gradients backwards (B). `stage` is that of this
    end."""

    sends: bool
    direction: Direction
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{'send' if self.sends else 'receive'} {self.direction} s{self.stage} m{self.microbatch}"


Step = Action | Transfer | Pass


def with_transfers(schedule: Schedule) -> tuple[tuple[Step, ...], ...]:
    """The rows of a schedule with what its ranks send and receive, and with the passes of a spread vocabulary. Raises
    ValueError where the schedule is not sound."""
    rows: list[list[tuple[tuple[int, int], Step]]] = [[] for _ in range(schedule.ranks)]
    steps = schedule.timed if schedule.spread else _played(schedule)
    for number, (step, begin, end) in enumerate(steps):
        here = step.rank if isinstance(step, Pass) else schedule.rank_of(step.stage)
        rows[here].append(((begin, len(steps) + number), step))
        for transfer in () if isinstance(step, Pass) else _ends(schedule, step):
            rows[schedule.rank_of(transfer.stage)].append(((end, number), transfer))
    return tuple(tuple(step for _, step in sorted(row, key=lambda each: each[0])) for row in rows)


def _played(schedule: Schedule) -> list[Played]:
    """Every action with when it begins and ends."""
    free = [0] * schedule.ranks
    done: dict[tuple[str, int, int], int] = {}
    found = []
    for action in schedule.order:
        kind, stage, microbatch = action
        rank, ahead = schedule.rank_of(stage), {"F": -1, "B": 1, "I": 1, "W": 0}[kind]
        way = "F" if kind == "F" else "B"
        begin = max(free[rank], done.get((way, stage + ahead, microbatch), 0) if ahead else 0)
        free[rank] = end = begin + SECONDS[kind]
        if kind != "W":
            done[way, stage, microbatch] = end
        found.append(Played(action, begin, end))
    return found


def _ends(schedule: Schedule, action: Action) -> tuple[Transfer, ...]:
    """Both ends of what an action sends to another rank."""
    kind, stage, microbatch = action
    direction: Direction = "F" if kind == "F" else "B"
    there = stage + (1 if kind == "F" else -1)
    if kind == "W" or not 0 <= there < schedule.stages or schedule.rank_of(there) == schedule.rank_of(stage):
        return ()
    return Transfer(True, direction, stage, microbatch), Transfer(False, direction, there, microbatch)


def check_transfers(schedule: Schedule, rows: tuple[tuple[Step, ...], ...]) -> None:
    """Play rows whose sends wait for their receives, and receives for their sends. Raises ValueError where that never
    ends, or where an action stands before what it needs has been received."""
    place = [0] * schedule.ranks
    runnable, there = list(range(schedule.ranks)), set[Step]()
    while runnable:
        rank = runnable.pop()
        while place[rank] < len(rows[rank]):
            step = rows[rank][place[rank]]
            if isinstance(step, Transfer):
                peer = peer_of(schedule, step)
                if place[peer] == len(rows[peer]) or rows[peer][place[peer]] != other(step):
                    break
                there |= {step, other(step)}
                place[peer] += 1
                runnable.append(peer)
            elif isinstance(step, Action) and not has_received(schedule, step, there):
                raise ValueError(f"{schedule.name} schedule: {step} stands before what it needs (rank {rank})")
            there.add(step)
            place[rank] += 1
    stuck = [rank for rank, row in enumerate(rows) if place[rank] < len(row)]
    if stuck:
        waits = ", ".join(f"rank {rank} at {rows[rank][place[rank]]}" for rank in stuck)
        raise ValueError(f"{schedule.name} schedule: transfers never end; {waits}")


def other(transfer: Transfer) -> Transfer:
    """The same transfer as its other rank sees it."""
    forwards = (transfer.direction == "F") == transfer.sends
    stage = transfer.stage + (1 if forwards else -1)
    return transfer._replace(sends=not transfer.sends, stage=stage)


def peer_of(schedule: Schedule, transfer: Transfer) -> int:
    return schedule.rank_of(other(transfer).stage)


def has_received(schedule: Schedule, action: Action, there: set[Step]) -> bool:
    kind, stage, microbatch = action
    if kind == "W":
        return Action("I", stage, microbatch) in there
    before = stage + (-1 if kind == "F" else 1)
    if not 0 <= before < schedule.stages:
        return True
    if schedule.rank_of(before) != schedule.rank_of(stage):
        return Transfer(False, "F" if kind == "F" else "B", stage, microbatch) in there
    of = ("F",) if kind == "F" else ("B", "I")
    return any(Action(each, before, microbatch) in there for each in of)  # type: ignore[arg-type]
