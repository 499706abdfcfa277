"""Pass program: the instructions of a schedule whose embedding and output layer are spread over all ranks.

A pass of a microbatch has one slot for all ranks, filled when the last of them has been through it: that is what others
wait for. Their slots stand after those of actions, their groups (one for each kind and rank) after those of actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .passes import KINDS, Pass
from .program import GROUPS, PASS, Instruction, Instructions, made, slots
from .validate import check_complete

if TYPE_CHECKING:
    from .schedule import Schedule


def with_passes(schedule: Schedule) -> Iterator[Instruction]:
    """Actions and passes, each after everything it needs. Raises ValueError where actions are missing."""
    check_complete(schedule)
    instructions, last = Instructions(schedule), schedule.stages - 1
    sends = _Passes(schedule, instructions)
    for step, _, _ in schedule.timed:
        if isinstance(step, Pass):
            yield sends.of(step)
            continue
        found = instructions.of(step)
        if step.stage == 0 and step.kind == "F":
            found = found._replace(needed=sends.place["E"] + step.microbatch)
        elif step.stage == last and step.kind in "BI":
            found = found._replace(needed=sends.place["G"] + step.microbatch)
        yield found


class _Passes:
    """What every pass is as numbers; `place[kind]` is the slot of its first microbatch."""

    def __init__(self, schedule: Schedule, instructions: Instructions):
        count, always = schedule.microbatches, slots(schedule) - 1
        self._ranks, self._groups = schedule.ranks, len(GROUPS) * schedule.stages
        self.place = {kind: always - (len(KINDS) - number) * count for number, kind in enumerate(KINDS)}
        ends = (action for action in schedule.actions[schedule.rank_of(0)] if action.stage == 0 and action.kind in "BI")
        self._needed = {
            "E": [always] * count,
            "S": [(schedule.stages - 1) * count + microbatch for microbatch in range(count)],
            "G": [self.place["S"] + microbatch for microbatch in range(count)],
            "T": [instructions.of(each).slot for each in sorted(ends, key=lambda each: each.microbatch)],
        }

    def of(self, step: Pass) -> Instruction:
        kind, microbatch, rank = step
        group = self._groups + KINDS.index(kind) * self._ranks + rank
        slot, needed = self.place[kind] + microbatch, self._needed[kind][microbatch]
        return made((slot, needed, group, rank, 2 * self._ranks + rank, PASS))
