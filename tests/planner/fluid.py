"""Traffic that shares cards, played the slow and plain way: at every moment everything is looked at again.

For collectives that take the cores (`hides` False) and no passes. Nothing of the interpreter is used: rows of actions,
first-in-first-out links, and paces by bisection.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from meshwright.planner.schedule import Action, Schedule
from meshwright.planner.simulate.work import Work


@dataclass
class Task:
    """Compute, a collective or a message: what is left of it, and what it takes of which card directions."""

    left_s: float
    name: object
    takes: dict[tuple[str, int], float]


def seconds_of(schedule: Schedule, work: Work) -> float:
    """Until the last gradient is reduced."""
    rows = [deque(_tasks(schedule, work, rank)) for rank in range(schedule.ranks)]
    links: dict[object, deque[Task]] = defaultdict(deque)
    there: set[Action] = set()
    running: dict[int, Task] = {}
    now_s = 0.0
    while True:
        for rank, row in enumerate(rows):
            if rank not in running and row and _may_begin(schedule, row[0], there):
                running[rank] = row.popleft()
        tasks = [*running.values(), *(queue[0] for queue in links.values() if queue)]
        if not tasks:
            return now_s
        step_s, ended = _step(tasks)
        now_s += step_s
        for queue in links.values():
            if queue and id(queue[0]) in ended:
                there.add(queue.popleft().name)  # type: ignore[arg-type]
        for rank in [rank for rank, task in running.items() if id(task) in ended]:
            name = running.pop(rank).name
            if isinstance(name, Action):
                _send(schedule, work, rank, name, links, there)


def _step(tasks: list[Task]) -> tuple[float, set[int]]:
    """Until something ends, and what does."""
    paces = _paces(tasks)
    ends = [task.left_s / pace for task, pace in zip(tasks, paces, strict=True)]
    for task, pace in zip(tasks, paces, strict=True):
        task.left_s -= pace * min(ends)
    return min(ends), {id(task) for task, end in zip(tasks, ends, strict=True) if end <= min(ends) * (1 + 1e-12)}


def _tasks(schedule: Schedule, work: Work, rank: int) -> Iterator[Task]:
    seconds = {"F": work.forward_s, "B": work.backward_s, "I": work.input_s, "W": work.weight_s}
    row, share = schedule.actions[rank], work.cards.data[rank]  # type: ignore[union-attr]
    both = {("out", rank): share, ("in", rank): share}
    for place, action in enumerate(row):
        same = [each for each in row if each.stage == action.stage]
        first = action == next(each for each in same if each.kind == "F")
        leaves = action.kind in "BW"
        last = leaves and action == [each for each in same if each.kind in "BW"][-1]
        needs_weights = action.kind in "FI" or action.kind == "B"
        if work.gather_s and (first or (work.zero == 3 and needs_weights)):
            yield Task(work.gather_s[action.stage], ("gather", place), dict(both))
        yield Task(seconds[action.kind][action.stage], action, {})
        if work.reduce_s and (last or (work.zero >= 2 and leaves)):
            yield Task(work.reduce_s[action.stage], ("reduce", place), dict(both))


def _may_begin(schedule: Schedule, task: Task, there: set[Action]) -> bool:
    if not isinstance(task.name, Action):
        return True
    kind, stage, microbatch = task.name
    if kind == "F":
        return stage == 0 or Action("F", stage - 1, microbatch) in there
    if kind == "W" or stage == schedule.stages - 1:
        return True
    return any(Action(each, stage + 1, microbatch) in there for each in "BI")  # type: ignore[arg-type]


def _send(
    schedule: Schedule,
    work: Work,
    rank: int,
    action: Action,
    links: dict[object, deque[Task]],
    there: set[Action],
) -> None:
    peer = action.stage + (1 if action.kind == "F" else -1)
    if action.kind == "W" or not 0 <= peer < schedule.stages:
        return
    to = schedule.rank_of(peer)
    if to == rank:
        there.add(action)
        return
    ranks, borders, ahead = schedule.ranks, work.cards.borders, action.kind == "F"  # type: ignore[union-attr]
    if ranks == 2:
        out, into = borders[rank] if ahead else borders[to][::-1]
    elif to == (rank + 1) % ranks:
        out, into = borders[rank]
    elif rank == (to + 1) % ranks:
        out, into = borders[to][::-1]
    else:
        out, into = (max(borders[each][0], borders[each - 1][1]) for each in (rank, to))
    takes = {("out", rank): out, ("in", to): into}
    links[rank, to, ahead if ranks == 2 else None].append(Task(work.transfer_s, action, takes))


def _paces(tasks: list[Task]) -> list[float]:
    """A task goes at the pace of the busier end. What a direction gives each is found by bisection: as much as it takes
    alone, or a level that is the same for all who would take more."""
    levels = {}
    for key in {key for task in tasks for key in task.takes}:
        shares = [task.takes[key] for task in tasks if key in task.takes]
        low, high = 0.0, max(1.0, *shares)
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(min(each, middle) for each in shares) <= 1 else (low, middle)
        levels[key] = high if sum(shares) > 1 else math.inf
    return [min([1.0, *(levels[key] / share for key, share in task.takes.items() if share)]) for task in tasks]
