"""Order: all actions of a schedule in one row, each after everything it needs.

What must be computed before an action, beside what its rank lists before it:

    F(v, m)          after F(v - 1, m)
    B(v, m), I(v, m) after F(v, m) and the B or I of (v + 1, m)
    W(v, m)          after I(v, m)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .action import Action

if TYPE_CHECKING:
    from .schedule import Schedule


class Blocked(NamedTuple):
    """A rank that waits in vain: at which place of its row, for what."""

    rank: int
    place: int
    needed: Action


class DeadlockError(ValueError):
    """No rank can go on, and not all have finished."""

    def __init__(self, schedule: Schedule, blocked: list[Blocked]):
        self.blocked = blocked
        waits = [f"rank {rank} at {schedule.actions[rank][place]}, for {needed}" for rank, place, needed in blocked]
        super().__init__(f"{schedule.name} schedule never ends; blocked: {'; '.join(waits)}")


def executable_order(schedule: Schedule) -> Iterator[Action]:
    """Let each rank run until it must wait; whoever finishes what it waits for sets it going again.

    Needs a complete schedule. Raises DeadlockError.
    """
    count, stages = schedule.microbatches, schedule.stages
    done = bytearray(3 * stages * count) + b"\1"
    position = [0] * schedule.ranks
    waiting: dict[int, int] = {}
    runnable = list(range(schedule.ranks))
    while runnable:
        rank = runnable.pop()
        row = schedule.actions[rank]
        for place in range(position[rank], len(row)):
            action = row[place]
            slot, needed = _slots(action, count, stages, done)
            if not done[needed]:
                waiting[needed] = rank
                break
            done[slot] = 1
            position[rank] = place + 1
            yield action
            if slot in waiting:
                runnable.append(waiting.pop(slot))
    _raise_if_blocked(schedule, position, done)


def _slots(action: Action, count: int, stages: int, done: bytearray) -> tuple[int, int]:
    """The slot of an action, and that of the first result it needs that is not there yet, or of one that is. Slots are
    those of forwards stage by stage, of backwards (B, I), and of W; the last one is always done."""
    kind, stage, microbatch = action
    forward = stage * count + microbatch
    if kind == "F":
        return forward, forward - count if stage else -1
    backward = forward + stages * count
    if kind == "W":
        return backward + stages * count, backward
    if not done[forward]:
        return backward, forward
    return backward, backward + count if stage < stages - 1 else -1


def _raise_if_blocked(schedule: Schedule, position: list[int], done: bytearray) -> None:
    count, stages = schedule.microbatches, schedule.stages
    blocked = [
        Blocked(rank, place, _at(schedule, _slots(row[place], count, stages, done)[1]))
        for rank, (row, place) in enumerate(zip(schedule.actions, position, strict=True))
        if place < len(row)
    ]
    if blocked:
        raise DeadlockError(schedule, blocked)


def _at(schedule: Schedule, slot: int) -> Action:
    """The action that fills a slot; a backward is called B, whichever half was listed."""
    part, place = divmod(slot, schedule.stages * schedule.microbatches)
    stage, microbatch = divmod(place, schedule.microbatches)
    listed = Action("FBW"[part], stage, microbatch)  # type: ignore[arg-type]
    row = schedule.actions[schedule.rank_of(stage)]
    return listed if listed in row else Action("I", stage, microbatch)
