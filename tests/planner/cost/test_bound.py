"""The lower bound of a step: below every schedule of any work, and equal to it where nothing is left to chance."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.bound import work_bound_s
from meshwright.planner.schedule import build, greedy, table
from meshwright.planner.schedule.csv_file import cells_of
from meshwright.planner.schedule.greedy import Seconds
from meshwright.planner.simulate.engine import step_time
from meshwright.planner.simulate.work import Work

seconds = st.floats(0.01, 10.0)


@st.composite
def steps(draw: st.DrawFn) -> tuple[Configuration, Work]:
    name = draw(st.sampled_from(sorted(table())))
    fewest = table()[name].chunks.start
    ranks = draw(st.integers(2 if fewest > 1 or table()[name].splits else 1, 5))
    vpp = min(draw(st.integers(fewest, fewest + 1)), table()[name].chunks.stop - 1)
    layers = draw(st.lists(st.integers(1, 4), min_size=ranks * vpp, max_size=ranks * vpp).map(tuple))
    each = st.lists(seconds, min_size=ranks * vpp, max_size=ranks * vpp).map(tuple)
    zero = draw(st.integers(0, 3))
    configuration = Configuration(
        mesh=Mesh(pp=ranks),
        stage_layers=layers,
        microbatch=1,
        microbatches=draw(st.integers(1, 6)) * (ranks if table()[name].whole_groups else 1),
        schedule=name,
        vpp=vpp,
        zero=zero,
    )
    work = Work(
        draw(each),
        draw(each),
        draw(st.floats(0, 3)),
        gather_s=draw(each) if zero else (),
        reduce_s=draw(each),
        pieces=layers,
        zero=zero,
        hides=draw(st.booleans()),
        steal=draw(st.sampled_from([0.0, 0.1, 0.5])),
        tied_s=draw(st.sampled_from([0.0, 2.0])),
        optimizer_s=(0.3,) * ranks,
        offload_s=(0.2,) * ranks,
        input_s=draw(each),
        weight_s=draw(each),
    )
    return configuration, work


@settings(max_examples=400, deadline=None)
@given(steps())
def test_no_step_is_below_its_bound(step: tuple[Configuration, Work]) -> None:
    configuration, work = step
    assert work_bound_s(configuration, work) <= step_time(build(configuration), work).total_s


@settings(max_examples=100, deadline=None)
@given(
    ranks=st.integers(1, 6), count=st.integers(1, 20), layers=st.integers(1, 8), share=st.floats(0, 1), data=st.data()
)
def test_with_equal_stages_the_bound_is_the_step(
    ranks: int, count: int, layers: int, share: float, data: st.DataObject
) -> None:
    """1F1B whose collectives hide but for one layer; with one rank, whatever the ZeRO stage and what overlap steals."""
    zero = data.draw(st.integers(0, 3 if ranks == 1 else 1))
    steal = data.draw(st.sampled_from([0.0, 0.2])) if ranks == 1 else 0.0
    configuration = Configuration(
        mesh=Mesh(pp=ranks), stage_layers=(layers,) * ranks, microbatch=1, microbatches=count, zero=zero
    )
    gather, reduce = (share * 2.0,) * ranks, (share * 4.0,) * ranks
    work = Work((2.0,) * ranks, (4.0,) * ranks, 0.0, gather, reduce, (layers,) * ranks, zero, steal=steal)
    if ranks > 1:
        work = replace(work, tied_s=0.25)
    assert work_bound_s(configuration, work) == pytest.approx(step_time(build(configuration), work).total_s, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(problem=st.data())
def test_no_list_of_actions_is_below_its_bound(problem: st.DataObject) -> None:
    """Whatever the placement: what a greedy scheduler makes of it."""
    ranks = problem.draw(st.integers(2, 4))
    further = problem.draw(st.lists(st.integers(0, ranks - 1), max_size=ranks))
    placement = tuple(problem.draw(st.permutations([*range(ranks), *further])))
    stages, count = len(placement), problem.draw(st.integers(1, 6))
    each = st.lists(seconds, min_size=stages, max_size=stages).map(tuple)
    times: Seconds = {"F": problem.draw(each), "I": problem.draw(each), "W": problem.draw(each)}
    schedule = greedy("custom", count, placement, [stages + 2] * ranks, times)
    configuration = Configuration(
        mesh=Mesh(pp=ranks),
        stage_layers=(1,) * stages,
        microbatch=1,
        microbatches=count,
        schedule="custom",
        vpp=max(placement.count(rank) for rank in range(ranks)),
        actions=tuple(",".join(row) for row in cells_of(schedule)),
        zero=0,
    )
    work = Work(tuple(times["F"]), problem.draw(each), problem.draw(st.floats(0, 2)), reduce_s=problem.draw(each))
    work = replace(work, input_s=tuple(times["I"]), weight_s=tuple(times["W"]), pieces=(1,) * stages)
    assert work_bound_s(configuration, work) <= step_time(build(configuration), work).total_s
