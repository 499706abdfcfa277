"""Pass check: prove of the rows of a spread vocabulary that every rank has every pass, and that none waits for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

from .action import Action
from .passes import KINDS, Pass
from .schedule import Schedule
from .transfers import Step, Transfer, has_received, other, peer_of

Rows = Sequence[Sequence[Step]]


def check_passes(schedule: Schedule, rows: Rows) -> None:
    """Play rows whose sends wait for their receives, receives for their sends, and steps for the passes and actions of
    other ranks that they need.

    Raises ValueError where a pass is missing, on another rank or there twice, where passes of a kind come in another
    order on another rank (they are collectives), or where a rank waits for ever.
    """
    wrong = [*_incomplete(schedule, rows), *_disorder(schedule, rows)]
    if wrong:
        raise ValueError(f"{schedule.name} schedule: {'; '.join(wrong)}")
    place, there, went_on = [0] * schedule.ranks, set[Step](), True
    while went_on:
        went_on = False
        for rank in range(schedule.ranks):
            while _steps(schedule, rows, rank, place, there):
                went_on = True
    stuck = [rank for rank, row in enumerate(rows) if place[rank] < len(row)]
    if stuck:
        waits = ", ".join(f"rank {rank} at {rows[rank][place[rank]]}" for rank in stuck)
        raise ValueError(f"{schedule.name} schedule: passes never end; {waits}")


def _incomplete(schedule: Schedule, rows: Rows) -> list[str]:
    """What a rank lacks or has too often."""
    found = []
    for rank, row in enumerate(rows):
        times = Counter[Step](step for step in row if not isinstance(step, Transfer))
        stages = schedule.stages_of(rank)
        wanted: list[Step] = [
            *schedule.actions[rank],
            *(Pass(k, m, rank) for k, m in product(KINDS, range(schedule.microbatches))),
        ]
        found += [f"{step} is {times[step]} times on rank {rank}" for step in wanted if times[step] != 1]
        strange = times.keys() - set(wanted)
        found += [f"{step} is on rank {rank}, which has stages {stages}" for step in times if step in strange]
    return found


def _disorder(schedule: Schedule, rows: Rows) -> list[str]:
    """Kinds of passes whose microbatches do not come in one order everywhere."""
    last = schedule.stages - 1
    losses = [each.microbatch for row in rows for each in row if isinstance(each, Action) and each[:2] == ("F", last)]
    found = []
    for kind in KINDS:
        orders = [[each.microbatch for each in row if isinstance(each, Pass) and each.kind == kind] for row in rows]
        if any(order != orders[0] for order in orders) or (kind in "SG" and orders[0] != losses):
            found.append(f"passes {kind} come in another order on another rank")
    return found


def _steps(schedule: Schedule, rows: Rows, rank: int, place: list[int], there: set[Step]) -> bool:
    """Whether a rank could go one step on."""
    if place[rank] == len(rows[rank]):
        return False
    step = rows[rank][place[rank]]
    if not all(needed in there for needed in _needed(schedule, step, there)):
        return False
    if isinstance(step, Transfer):
        peer = peer_of(schedule, step)
        if place[peer] == len(rows[peer]) or rows[peer][place[peer]] != other(step):
            return False
        there.add(other(step))
        place[peer] += 1
    elif isinstance(step, Action) and not has_received(schedule, step, there):
        return False
    there.add(step)
    place[rank] += 1
    return True


def _needed(schedule: Schedule, step: Step, there: set[Step]) -> Sequence[Step]:
    """Passes, and actions at the ends of the pipeline, that a step waits for."""
    last, ranks = schedule.stages - 1, range(schedule.ranks)
    if isinstance(step, Transfer):
        return ()
    number = step.microbatch
    if isinstance(step, Pass):
        if step.kind == "E":
            return ()
        if step.kind == "G":
            return [Pass("S", number, rank) for rank in ranks]
        if step.kind == "S":
            return [Action("F", last, number)]
        whole = Action("B", 0, number)
        return [whole if whole in there else Action("I", 0, number)]
    if step[:2] == ("F", 0):
        return [Pass("E", number, rank) for rank in ranks]
    if step.kind in "BI" and step.stage == last:
        return [Pass("G", number, rank) for rank in ranks]
    return ()
