"""Schedules: as frugal in memory and as free of bubbles as their papers say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import schedules

from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.schedule import (
    Schedule,
    build,
    check,
    dual_pipe_v,
    gpipe,
    held,
    interleaved,
    looped_bfs,
    make,
    names,
    one_forward_one_backward,
    zero_bubble_h1,
    zero_bubble_v,
)
from meshwright.planner.schedule.table import held_by
from meshwright.planner.simulate.engine import makespan
from meshwright.planner.simulate.work import Work


@settings(max_examples=300, deadline=None)
@given(schedules())
def test_every_schedule_is_sound(schedule: Schedule) -> None:
    check(schedule)


def test_the_schedules_that_exist() -> None:
    assert names() == ("1f1b", "dualpipev", "gpipe", "interleaved", "looped-bfs", "zb-h1", "zb-v")


def test_interleaved_refuses_a_partial_group() -> None:
    with pytest.raises(ValueError, match="multiples of ranks"):
        interleaved(4, 6, 2)


@pytest.mark.parametrize(
    ("name", "chunks", "rule"),
    [
        ("1f1b", 2, "one stage a rank, not 2"),
        ("zb-v", 3, "two stages a rank, not 3"),
        ("looped-bfs", 1, "two stages a rank or more, not 1"),
    ],
)
def test_a_schedule_has_its_number_of_stages(name: str, chunks: int, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        make(name, 2, 4, chunks)


@pytest.mark.parametrize(("ranks", "microbatches"), [(4, 8), (8, 8), (4, 2), (1, 5)])
def test_microbatches_held(ranks: int, microbatches: int) -> None:
    """GPipe holds all of them; 1F1B at most ranks - rank (arXiv:2006.09503, section 2.2)."""
    everything, few = gpipe(ranks, microbatches), one_forward_one_backward(ranks, microbatches)
    for rank in range(ranks):
        assert everything.in_flight(rank) == microbatches
        assert few.in_flight(rank) == min(ranks - rank, microbatches)


def test_interleaved_holds_what_megatron_says() -> None:
    """The first rank holds p(1 + (p-1)/(pv)) full-rank microbatches (arXiv:2205.05198, section 5.1)."""
    ranks, chunks = 4, 2
    held_first = interleaved(ranks, 16, chunks).in_flight(0) / chunks
    assert held_first == pytest.approx(ranks * (1 + (ranks - 1) / (ranks * chunks)))


@pytest.mark.parametrize("ranks", [1, 2, 4, 7])
def test_zero_bubbles_hold_what_1f1b_does(ranks: int) -> None:
    """ZB-H1 and ZB-V keep the most that a rank holds under 1F1B, on every rank (arXiv:2401.10241, table 1 and section
    6); DualPipe holds the activations of one microbatch of a stage more (arXiv:2412.19437, table 2)."""
    for rank in range(ranks):
        assert zero_bubble_h1(ranks, 4 * ranks).in_flight(rank) == ranks
        assert zero_bubble_v(ranks, 4 * ranks).in_flight(rank) == 2 * ranks
        assert dual_pipe_v(ranks, 4 * ranks).in_flight(rank) <= 2 * ranks + 1


@settings(max_examples=150, deadline=None)
@given(schedules(most_microbatches=40))
def test_what_is_held_needs_no_long_schedule(schedule: Schedule) -> None:
    """Closed forms, and the first microbatches of a rhythm, say what all of the actions say."""
    chunks = schedule.stages // schedule.ranks
    for rank in range(schedule.ranks):
        found, told = held_by(schedule, rank), held(schedule.name, schedule.ranks, schedule.microbatches, chunks, rank)
        assert told.moments == found.moments
        if rank == schedule.rank_of(schedule.stages - 1):
            assert told.losses == found.losses


def _halves(ranks: int, forward: float, inputs: float, weights: float) -> Work:
    """Equal ranks, of one stage each or of two halves."""
    return Work((forward,) * ranks, (inputs + weights,) * ranks, input_s=(inputs,) * ranks, weight_s=(weights,) * ranks)


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.integers(1, 8),
    more=st.integers(0, 12),
    forward=st.floats(0.5, 2.0),
    inputs=st.floats(0.5, 2.0),
    share=st.floats(0.0, 1.0),
)
def test_bubble_of_zb_h1(ranks: int, more: int, forward: float, inputs: float, share: float) -> None:
    """(p - 1)(T_F + T_B - T_W), where 1F1B has (p - 1)(T_F + T_B + T_W) (arXiv:2401.10241, table 2), while a weight
    gradient takes no longer than the forward or the input gradient."""
    microbatches, weights = 2 * ranks + more, share * min(forward, inputs)
    work = _halves(ranks, forward, inputs, weights)
    busy = microbatches * (forward + inputs + weights)
    assert makespan(zero_bubble_h1(ranks, microbatches), work) == pytest.approx(
        busy + (ranks - 1) * (forward + inputs - weights), rel=1e-9
    )
    assert makespan(one_forward_one_backward(ranks, microbatches), work) == pytest.approx(
        busy + (ranks - 1) * (forward + inputs + weights), rel=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(1, 8), more=st.integers(0, 20))
def test_zb_v_has_no_bubble_where_all_passes_take_as_long(ranks: int, more: int) -> None:
    """arXiv:2401.10241, section 6: rank 0 computes from the first moment to the last."""
    microbatches = 2 * ranks + more
    schedule = zero_bubble_v(ranks, microbatches)
    assert makespan(schedule, _halves(2 * ranks, 1.0, 1.0, 1.0)) == 2 * 3 * microbatches + ranks - 1


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(1, 6), microbatches=st.integers(1, 12), chunks=st.integers(2, 4))
def test_looped_bfs_divides_the_bubble_of_gpipe(ranks: int, microbatches: int, chunks: int) -> None:
    """As interleaving does, where there are as many microbatches as ranks (arXiv:2211.05953, section 4.2)."""
    microbatches = max(microbatches, ranks)
    work = Work((1.0,) * ranks * chunks, (2.0,) * ranks * chunks)
    assert makespan(looped_bfs(ranks, microbatches, chunks), work) == 3 * (microbatches * chunks + ranks - 1)


def test_build_reads_the_configuration() -> None:
    configuration = Configuration(
        mesh=Mesh(pp=2), stage_layers=(1, 1, 1, 1), microbatch=1, microbatches=4, schedule="interleaved", vpp=2
    )
    built = build(configuration)
    assert (built.name, built.ranks, built.stages, built.microbatches) == ("interleaved", 2, 4, 4)
    assert [built.rank_of(stage) for stage in range(4)] == [0, 1, 0, 1]


def test_the_v_puts_first_and_last_stage_on_rank_0() -> None:
    configuration = Configuration(
        mesh=Mesh(pp=3), stage_layers=(1,) * 6, microbatch=1, microbatches=6, schedule="zb-v", vpp=2
    )
    assert [configuration.rank_of(stage) for stage in range(6)] == [0, 1, 2, 2, 1, 0]
    assert [tuple(configuration.stages_of(rank)) for rank in range(3)] == [(0, 5), (1, 4), (2, 3)]
