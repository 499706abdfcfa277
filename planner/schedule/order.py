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
    done = bytearray(_nothing(schedule)) + b"\1"
    position = [0] * schedule.ranks
    waiting: dict[int, int] = {}
    runnable = list(range(schedule.ranks))
    while runnable:
        rank = runnable.pop()
        row = schedule.actions[rank]
        for place in range(position[rank], len(row)):
            action = row[place]
            slot, needed = _slot(schedule, action), _needed(schedule, action, done)
            if not done[needed]:
                waiting[needed] = rank
                break
            done[slot] = 1
            position[rank] = place + 1
            yield action
            if slot in waiting:
                runnable.append(waiting.pop(slot))
    _raise_if_blocked(schedule, position, done)


def _nothing(schedule: Schedule) -> int:
    """The slot that is always done; before it those of forwards stage by stage, backwards (B, I), and W."""
    return 3 * schedule.stages * schedule.microbatches


def _slot(schedule: Schedule, action: Action) -> int:
    kind, stage, microbatch = action
    slot = stage * schedule.microbatches + microbatch
    if kind == "F":
        return slot
    return slot + schedule.stages * schedule.microbatches * (2 if kind == "W" else 1)


def _needed(schedule: Schedule, action: Action, done: bytearray) -> int:
    """The slot of the first result that is not there yet, or of one that is."""
    kind, stage, microbatch = action
    count, stages = schedule.microbatches, schedule.stages
    forward = stage * count + microbatch
    if kind == "F":
        return forward - count if stage else _nothing(schedule)
    backward = forward + stages * count
    if kind == "W":
        return backward
    if not done[forward]:
        return forward
    return backward + count if stage < stages - 1 else _nothing(schedule)


def _raise_if_blocked(schedule: Schedule, position: list[int], done: bytearray) -> None:
    blocked = [
        Blocked(rank, place, _at(schedule, _needed(schedule, row[place], done)))
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
