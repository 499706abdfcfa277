"""Passes of a spread vocabulary in the event interpreter, against the longest path of the explicit graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from schedules import schedules

from meshwright.planner.schedule import Action, Schedule, make
from meshwright.planner.schedule.passes import Pass, drawn
from meshwright.planner.simulate.engine import busy_s, makespan, run
from meshwright.planner.simulate.work import Passes, Work

PASSES = Passes(embed_s=0.1, logits_s=0.7, gradients_s=1.1, scatter_s=0.2, cast_s=0.3, reduce_s=0.4, exchange_s=0.05)


def work_of(schedule: Schedule, passes: Passes = PASSES) -> Work:
    each = range(schedule.stages)
    halves = {"input_s": tuple(0.9 + 0.1 * v for v in each), "weight_s": tuple(0.8 + 0.05 * v for v in each)}
    whole = tuple(a + b for a, b in zip(*halves.values(), strict=True))
    return Work(tuple(1.0 + 0.1 * v for v in each), whole, transfer_s=0.25, passes=passes, **halves)


def longest_path_s(schedule: Schedule, work: Work) -> float:
    """Each step after the one before it on its rank and after everything that it waits for."""
    ends: dict[Action | Pass, float] = {}
    free = [0.0] * schedule.ranks
    for step in schedule.steps:
        rank = step.rank if isinstance(step, Pass) else schedule.rank_of(step.stage)
        begin = max([free[rank], *(ends[needed] + seconds for needed, seconds in waits(schedule, work, step))])
        free[rank] = ends[step] = begin + seconds_of(work, step)
    return max(free)


def seconds_of(work: Work, step: Action | Pass) -> float:
    assert work.passes is not None
    if isinstance(step, Pass):
        return work.passes.compute_s["ESGT".index(step.kind)]
    return {"F": work.forward_s, "B": work.backward_s, "I": work.input_s, "W": work.weight_s}[step.kind][step.stage]


def waits(schedule: Schedule, work: Work, step: Action | Pass) -> Iterator[tuple[Action | Pass, float]]:
    """What a step waits for beside its own rank, and how long that is on its way."""
    passes, last, ranks = work.passes, schedule.stages - 1, range(schedule.ranks)
    assert passes is not None
    kind, m = step.kind, step.microbatch
    if isinstance(step, Pass):
        if kind == "S":
            yield Action("F", last, m), passes.cast_s
        if kind == "G":
            yield from ((Pass("S", m, rank), passes.exchange_s) for rank in ranks)
        if kind == "T":
            yield backward(schedule, 0, m), passes.cast_s
        return
    if kind == "F" and step.stage == 0:
        yield from ((Pass("E", m, rank), passes.reduce_s) for rank in ranks)
    elif kind == "F":
        yield Action("F", step.stage - 1, m), hop(schedule, work, step.stage, step.stage - 1)
    elif kind in "BI" and step.stage == last:
        yield from ((Pass("G", m, rank), passes.reduce_s) for rank in ranks)
    elif kind in "BI":
        yield backward(schedule, step.stage + 1, m), hop(schedule, work, step.stage, step.stage + 1)


def hop(schedule: Schedule, work: Work, here: int, there: int) -> float:
    return 0.0 if schedule.rank_of(here) == schedule.rank_of(there) else work.transfer_s


def backward(schedule: Schedule, stage: int, microbatch: int) -> Action:
    whole = Action("B", stage, microbatch)
    return whole if whole in schedule.actions[schedule.rank_of(stage)] else Action("I", stage, microbatch)


@settings(max_examples=60, deadline=None)
@given(schedules(most_ranks=4, most_microbatches=8))
def test_the_makespan_is_the_longest_path(schedule: Schedule) -> None:
    found = replace(drawn(schedule), spread=True)
    work = work_of(found)
    assert makespan(found, work) == pytest.approx(longest_path_s(found, work), rel=1e-9)


def test_ranks_are_busy_with_passes_too() -> None:
    schedule = replace(drawn(make("1f1b", 2, 4)), spread=True)
    work = work_of(schedule)
    own = [4 * (work.forward_s[v] + work.backward_s[v]) for v in range(2)]
    assert busy_s(schedule, work) == pytest.approx([each + 4 * sum(PASSES.compute_s) for each in own])


def test_the_timeline_shows_every_pass() -> None:
    schedule = replace(drawn(make("zb-h1", 2, 4)), spread=True)
    names = [span.name for span in run(schedule, work_of(schedule)).of("compute")]
    assert {kind: names.count(kind) for kind in "ESGT"} == dict.fromkeys("ESGT", 2 * 4)


def test_free_passes_take_no_time() -> None:
    schedule = drawn(make("1f1b", 4, 8))
    work = replace(work_of(schedule), transfer_s=0.0)
    spread = makespan(replace(schedule, spread=True), replace(work, passes=Passes()))
    assert spread == pytest.approx(makespan(schedule, replace(work, passes=None)), rel=0.2)
    assert spread >= makespan(schedule, replace(work, passes=None)) * (1 - 1e-9)
