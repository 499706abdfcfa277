"""Validate: prove of any action list that it computes everything once, in an order that ends, and name every fault.

A list is sound where

1. every action is of a known stage and microbatch, and on the rank that holds the stage;
2. every microbatch goes forward once through every stage, and back once: whole (B), or in two halves (I and W);
3. no backward stands before its forward, no weight gradient before its input gradient;
4. no rank waits for ever. `order.py` finds an order of all actions in which each has what it needs. Sends may block
   until they are received: `transfers.py` then places every send and receive after one such order, and proves it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from .action import KINDS, Action
from .order import DeadlockError, executable_order

if TYPE_CHECKING:
    from .schedule import Schedule


class Fault(NamedTuple):
    """One thing wrong: `rule` says what, `place` where in the rank's row (None: it is nowhere)."""

    rule: str
    rank: int
    place: int | None
    action: Action

    def __str__(self) -> str:
        where = f"rank {self.rank}" if self.place is None else f"rank {self.rank}, place {self.place}"
        return f"{self.action} {self.rule} ({where})"


SHOWN = 12
"""Faults that a message names; the rest is counted."""


def check(schedule: Schedule) -> None:
    """Raises ValueError with the faults of a schedule, if it has any."""
    found = faults(schedule)
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(f"{schedule.name} schedule: {'; '.join(map(str, found[:SHOWN]))}{more}")


def faults(schedule: Schedule) -> list[Fault]:
    """Everything wrong with a schedule, row by row; whether it ends is asked once the rows are sound."""
    found = [*_in_rows(schedule), *_missing(schedule)]
    return found or list(_deadlock(schedule))


def check_complete(schedule: Schedule) -> None:
    """The first two points alone, fast. Raises ValueError as `check` does."""
    if not all(_is_complete(schedule, rank) for rank in range(schedule.ranks)):
        check(schedule)


def _is_complete(schedule: Schedule, rank: int) -> bool:
    row = schedule.actions[rank]
    wanted = set(product(schedule.stages_of(rank), range(schedule.microbatches)))
    of: dict[str, set[tuple[int, int]]] = {kind: set() for kind in KINDS}
    for kind, stage, microbatch in row:
        if kind not in of:
            return False
        of[kind].add((stage, microbatch))
    forward, whole, inputs, weights = of.values()
    complete = forward == wanted and inputs == weights and whole | inputs == wanted and not whole & inputs
    return complete and len(row) == sum(map(len, of.values()))


def _in_rows(schedule: Schedule) -> Iterator[Fault]:
    """What is wrong with an action that is listed, given those before it in its row."""
    times = Counter(action for row in schedule.actions for action in row)
    for rank, row in enumerate(schedule.actions):
        seen: set[Action] = set()
        for place, action in enumerate(row):
            for rule in _rules(schedule, rank, action, seen, times):
                yield Fault(rule, rank, place, action)
            seen.add(action)


def _rules(schedule: Schedule, rank: int, action: Action, seen: set[Action], times: Counter[Action]) -> Iterator[str]:
    kind, stage, microbatch = action
    if kind not in KINDS or not 0 <= stage < schedule.stages or not 0 <= microbatch < schedule.microbatches:
        yield f"is unknown: kinds are {', '.join(KINDS)}, stages 0-{schedule.stages - 1}, microbatches 0-" + (
            f"{schedule.microbatches - 1}"
        )
        return
    if schedule.rank_of(stage) != rank:
        yield f"is on the wrong rank: stage {stage} is on rank {schedule.rank_of(stage)}"
    if action in seen:
        yield "is listed twice"
    forward, whole, half = (Action(KINDS[each], stage, microbatch) for each in "FBI")
    if kind == "W" and half not in seen:
        yield "stands before its input gradient" if times[half] else "has no input gradient (I)"
    if kind in "BI" and forward not in seen and times[forward]:
        yield "stands before its forward"
    if kind in "IW" and times[whole]:
        yield "is a half of a backward that is also listed whole (B)"


def _missing(schedule: Schedule) -> Iterator[Fault]:
    """What no rank lists."""
    listed = {action for row in schedule.actions for action in row}
    for stage, microbatch in product(range(schedule.stages), range(schedule.microbatches)):
        rank = schedule.rank_of(stage)
        of = {kind: Action(kind, stage, microbatch) for kind in KINDS.values()}
        if of["F"] not in listed:
            yield Fault("is missing", rank, None, of["F"])
        if of["I"] in listed and of["W"] not in listed:
            yield Fault("is missing", rank, None, of["W"])
        if of["B"] not in listed and of["I"] not in listed and of["W"] not in listed:
            yield Fault("is missing", rank, None, of["B"])


def _deadlock(schedule: Schedule) -> Iterator[Fault]:
    """Where each rank would stand for ever."""
    try:
        for _ in executable_order(schedule):
            pass
    except DeadlockError as error:
        for rank, place, needed in error.blocked:
            rule = f"waits for ever for {needed} of rank {schedule.rank_of(needed.stage)}"
            yield Fault(rule, rank, place, schedule.actions[rank][place])
