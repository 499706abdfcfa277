"""The event interpreter against closed forms, a published simulator, and the longest path of the explicit graph."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.schedule import Action, Schedule, gpipe, interleaved, one_forward_one_backward
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
    for row in schedule.actions:
        for action in row:
            seconds[action] = (work.forward_s if action.kind == "F" else work.backward_s)[action.stage]
        _chain(graph, row, seconds)
        for kind, ahead in (("F", 1), ("B", -1)):
            sent = [each for each in row if each.kind == kind and 0 <= each.stage + ahead < schedule.stages]
            transfers = [("send", *each) for each in sent]
            seconds |= dict.fromkeys(transfers, work.transfer_s if schedule.ranks > 1 else 0.0)
            _chain(graph, transfers, seconds)
            for action, transfer in zip(sent, transfers, strict=True):
                graph.add_edge(action, transfer, weight=seconds[action])
                target = Action(kind, action.stage + ahead, action.microbatch)  # type: ignore[arg-type]
                graph.add_edge(transfer, target, weight=seconds[transfer])
    return float(networkx.dag_longest_path_length(graph))


def _chain(graph: networkx.DiGraph, nodes: Sequence[Hashable], seconds: dict[Hashable, float]) -> None:
    for earlier, later in itertools.pairwise([*nodes, "end"]):
        if nodes:
            graph.add_edge(earlier, later, weight=seconds[earlier])


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Schedule, Work]:
    ranks, groups, chunks = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    made = {
        "gpipe": lambda: gpipe(ranks, groups),
        "1f1b": lambda: one_forward_one_backward(ranks, groups * 2),
        "interleaved": lambda: interleaved(ranks, groups * ranks, chunks),
    }
    schedule = made[draw(st.sampled_from(sorted(made)))]()
    costs = st.lists(seconds, min_size=schedule.stages, max_size=schedule.stages).map(tuple)
    return schedule, Work(draw(costs), draw(costs), draw(st.floats(0, 3)))


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
    assert len(end) == len(computed) == 2 * schedule.stages * schedule.microbatches
    for row in schedule.actions:
        assert all(start[later] >= end[earlier] - 1e-9 for earlier, later in itertools.pairwise(row))
    for span in sent:
        kind, stage, microbatch = span.action  # type: ignore[misc]
        assert end[span.action] - 1e-9 <= span.start_s
        assert span.end_s <= start[Action(kind, stage + (1 if kind == "F" else -1), microbatch)] + 1e-9
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
    assert makespan(schedule, Work(tuple(slow), times.backward_s, times.transfer_s)) >= makespan(schedule, times)


def test_times_must_match_the_stages() -> None:
    with pytest.raises(ValueError, match="2 stages needs as many times, not 1 forward and 2 backward"):
        makespan(gpipe(2, 1), Work((1.0,), (1.0, 1.0)))
