"""The event interpreter against closed forms, a published simulator, and the longest path of the explicit graph."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import replace

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import schedules

from meshwright.planner.schedule import (
    Action,
    Schedule,
    gpipe,
    interleaved,
    one_forward_one_backward,
    zero_bubble_h1,
)
from meshwright.planner.simulate.engine import makespan, run, step_time
from meshwright.planner.simulate.work import Work

seconds = st.floats(1e-3, 10.0)


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(1, 8), microbatches=st.integers(1, 24), forward_s=seconds, backward_s=seconds)
def test_gpipe_and_1f1b_with_equal_stages(ranks: int, microbatches: int, forward_s: float, backward_s: float) -> None:
    times = Work((forward_s,) * ranks, (backward_s,) * ranks)
    closed = (microbatches + ranks - 1) * (forward_s + backward_s)
    assert makespan(gpipe(ranks, microbatches), times) == pytest.approx(closed, rel=1e-9)
    assert makespan(one_forward_one_backward(ranks, microbatches), times) == pytest.approx(closed, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(1, 6), groups=st.integers(1, 4), chunks=st.integers(1, 4), forward_s=seconds)
def test_interleaved_with_equal_stages(ranks: int, groups: int, chunks: int, forward_s: float) -> None:
    """The bubble is 1/chunks of that of 1F1B (arXiv:2104.04473, section 2.2); backwards cost twice the forward."""
    microbatches, stages = groups * ranks, ranks * chunks
    times = Work((forward_s / chunks,) * stages, (2 * forward_s / chunks,) * stages)
    closed = (microbatches * chunks + ranks - 1) * 3 * forward_s / chunks
    assert makespan(interleaved(ranks, microbatches, chunks), times) == pytest.approx(closed, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(2, 8), microbatches=st.integers(1, 24), transfer_s=st.floats(0, 1.0))
def test_gpipe_with_transfers(ranks: int, microbatches: int, transfer_s: float) -> None:
    """Transfers that take no longer than a stage delay the first microbatch on its way, and nothing else."""
    work = Work((1.0,) * ranks, (2.0,) * ranks, transfer_s)
    found = step_time(gpipe(ranks, microbatches), work)
    assert found.pipeline_s == pytest.approx((microbatches + ranks - 1) * 3.0 + 2 * (ranks - 1) * transfer_s, rel=1e-9)
    assert found.transfers_s == pytest.approx(2 * (ranks - 1) * transfer_s, rel=1e-9, abs=1e-9)


def test_the_published_example_of_primus() -> None:
    """AMD Primus, pp-simulator README: 8 ranks, 32 microbatches, F = B = W = 1000 (backward 2000)."""
    whole = Work((1000.0,) * 8, (2000.0,) * 8)
    half = Work((500.0,) * 16, (1000.0,) * 16)
    assert makespan(one_forward_one_backward(8, 32), whole) == 117_000
    assert makespan(interleaved(8, 32, 2), half) == 106_500


def _longest_path(schedule: Schedule, work: Work) -> float:
    """Makespan by networkx: nodes are actions and transfers, edges weigh what they leave."""
    graph, seconds = networkx.DiGraph(), {}
    of = {"F": work.forward_s, "B": work.backward_s, "I": work.input_s, "W": work.weight_s}
    listed = {action for row in schedule.actions for action in row}
    for rank, row in enumerate(schedule.actions):
        seconds |= {action: of[action.kind][action.stage] for action in row}
        _chain(graph, row, seconds)
        links: dict[Hashable, list[Hashable]] = {}
        for action in row:
            there = action.stage + (1 if action.kind == "F" else -1)
            if action.kind == "W" or not 0 <= there < schedule.stages:
                continue
            kinds = "F" if action.kind == "F" else "BI"
            after = next(each for kind in kinds if (each := (kind, there, action.microbatch)) in listed)
            if schedule.rank_of(there) == rank:
                graph.add_edge(action, after, weight=seconds[action])
                continue
            transfer = ("send", *action)
            seconds[transfer] = work.transfer_s
            graph.add_edge(action, transfer, weight=seconds[action])
            graph.add_edge(transfer, after, weight=work.transfer_s)
            way = kinds if schedule.ranks == 2 else schedule.rank_of(there)  # two ranks have a link for each direction
            links.setdefault(way, []).append(transfer)
        for transfers in links.values():
            _chain(graph, transfers, seconds)
    return float(networkx.dag_longest_path_length(graph))


def _chain(graph: networkx.DiGraph, nodes: Sequence[Hashable], seconds: dict[Hashable, float]) -> None:
    for earlier, later in itertools.pairwise([*nodes, "end"]):
        if nodes:
            graph.add_edge(earlier, later, weight=seconds[earlier])


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Schedule, Work]:
    schedule = draw(schedules(most_ranks=4, most_microbatches=6))
    costs = st.lists(seconds, min_size=schedule.stages, max_size=schedule.stages).map(tuple)
    work = Work(draw(costs), draw(costs), draw(st.floats(0, 3)), input_s=draw(costs), weight_s=draw(costs))
    return schedule, work


@settings(max_examples=80, deadline=None)
@given(pipelines())
def test_makespan_is_the_longest_path(pipeline: tuple[Schedule, Work]) -> None:
    assert makespan(*pipeline) == pytest.approx(_longest_path(*pipeline), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(pipelines())
def test_the_timeline_respects_its_own_rules(pipeline: tuple[Schedule, Work]) -> None:
    schedule, work = pipeline
    timeline = run(schedule, work)
    assert timeline.makespan_s == timeline.reduced_s == timeline.step_s == makespan(schedule, work)
    computed, sent = timeline.of("compute"), timeline.of("pipeline")
    end = {span.action: span.end_s for span in computed}
    start = {span.action: span.start_s for span in computed}
    assert len(end) == len(computed) == sum(map(len, schedule.actions))
    for row in schedule.actions:
        assert all(start[later] >= end[earlier] - 1e-9 for earlier, later in itertools.pairwise(row))
    for span in sent:
        kind, stage, microbatch = span.action  # type: ignore[misc]
        assert end[span.action] - 1e-9 <= span.start_s
        kinds, there = ("F", stage + 1) if kind == "F" else ("BI", stage - 1)
        after = next(each for each in kinds if (each, there, microbatch) in start)
        assert span.end_s <= start[Action(after, there, microbatch)] + 1e-9  # type: ignore[arg-type]
    for rank, busy_s in enumerate(timeline.busy_s):
        assert busy_s == pytest.approx(sum(s.end_s - s.start_s for s in computed if s.rank == rank))


@settings(max_examples=30, deadline=None)
@given(pipelines(), st.integers(0, 11), seconds)
def test_a_slower_stage_never_makes_the_step_faster(
    pipeline: tuple[Schedule, Work], stage: int, extra_s: float
) -> None:
    schedule, times = pipeline
    slow = list(times.forward_s)
    slow[stage % schedule.stages] += extra_s
    assert makespan(schedule, replace(times, forward_s=tuple(slow))) >= makespan(schedule, times)


def test_times_must_match_the_stages() -> None:
    with pytest.raises(ValueError, match="2 stages needs as many times, not 1 forward and 2 backward"):
        makespan(gpipe(2, 1), Work((1.0,), (1.0, 1.0)))


def test_split_backwards_need_both_halves() -> None:
    with pytest.raises(ValueError, match="the zb-h1 schedule splits backwards, and needs input_s and weight_s"):
        makespan(zero_bubble_h1(2, 2), Work((1.0, 1.0), (2.0, 2.0)))


def test_the_gradient_is_sent_after_its_first_half() -> None:
    """Two ranks, one microbatch: rank 0 goes backward when the input gradient is there, not the weight gradient."""
    work = Work((1.0, 1.0), (7.0, 7.0), 0.5, input_s=(2.0, 2.0), weight_s=(5.0, 5.0))
    spans = {str(span.action): span for span in run(zero_bubble_h1(2, 1), work).of("compute")}
    assert spans["I s1 m0"].start_s == 2.5
    assert spans["W s1 m0"].start_s == 4.5
    assert spans["I s0 m0"].start_s == 5.0
