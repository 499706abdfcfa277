"""Pass program: the instructions of a schedule whose embedding and output layer are spread over all ranks.

A pass of a microbatch has one slot for all ranks, filled when the last of them has been through it: that is what others
wait for. Their slots stand after those of actions, their groups (one for each kind and rank) after those of actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .passes import KINDS, Pass
from .program import BACKWARD, FORWARD, GROUPS, PASS, Instruction, program_of, slots

if TYPE_CHECKING:
    from .schedule import Schedule


def with_passes(schedule: Schedule) -> Iterator[Instruction]:
    """Actions and passes, each after everything it needs."""
    count, last = schedule.microbatches, schedule.stages - 1
    own = dict(zip(schedule.order, program_of(schedule), strict=True))
    first_pass = slots(schedule) - 1 - len(KINDS) * count
    place = {kind: first_pass + number * count for number, kind in enumerate(KINDS)}
    backward = {action.microbatch: own[action].slot for action in own if action.stage == 0 and action.kind in "BI"}
    for step, _, _ in schedule.timed:
        if isinstance(step, Pass):
            needed = {
                "E": slots(schedule) - 1,
                "S": last * count + step.microbatch,
                "G": place["S"] + step.microbatch,
                "T": backward[step.microbatch],
            }[step.kind]
            group = len(GROUPS) * schedule.stages + KINDS.index(step.kind) * schedule.ranks + step.rank
            link = 2 * schedule.ranks + step.rank
            yield Instruction(place[step.kind] + step.microbatch, needed, group, step.rank, link, PASS)
            continue
        found = own[step]
        if found.turn & FORWARD and step.stage == 0:
            found = found._replace(needed=place["E"] + step.microbatch)
        elif found.turn & BACKWARD and step.kind != "W" and step.stage == last:
            found = found._replace(needed=place["G"] + step.microbatch)
        yield found
