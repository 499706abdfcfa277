"""Ranks that share cores: the usual interpreter where none is faster alone, and work that is conserved where one core
serves all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import schedules

from meshwright.planner.schedule import Schedule, gpipe, one_forward_one_backward, zero_bubble_v
from meshwright.planner.schedule.program import slots
from meshwright.planner.simulate.engine import _hops, _seconds, play, step_time
from meshwright.planner.simulate.shared import play_shared
from meshwright.planner.simulate.work import Slowness, Work


@settings(max_examples=60, deadline=None)
@given(schedule=schedules(), data=st.data())
def test_where_none_is_faster_alone_it_is_the_usual_interpreter(schedule: Schedule, data: st.DataObject) -> None:
    if schedule.spread:
        return
    draw = st.lists(st.floats(0.01, 5.0), min_size=schedule.stages, max_size=schedule.stages).map(tuple)
    forward, backward, gather, reduce = (data.draw(draw) for _ in range(4))
    zero = data.draw(st.integers(0, 3))
    half = tuple(each / 2 for each in backward)
    slow = Slowness(data=tuple(data.draw(st.sampled_from([1.0, 2.5])) for _ in range(schedule.ranks)))
    work = Work(forward, backward, 0.3, gather, reduce, zero=zero, hides=False, input_s=half, weight_s=half, slow=slow)
    usual = play(schedule, work)
    even = replace(work, pace=(1.0,) * schedule.ranks)
    shared = play_shared(schedule, even, _seconds(schedule, even), _hops(schedule, even), slots(schedule))
    assert shared.ends_s[:-1] == pytest.approx(usual.ends_s[:-1])
    assert shared.starts_s[:-1] == pytest.approx(usual.starts_s[:-1])
    assert shared.free_s == pytest.approx(usual.done_s)


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(2, 6), microbatches=st.integers(1, 8), forward_s=st.floats(0.1, 3.0))
def test_one_core_for_all_is_never_idle(ranks: int, microbatches: int, forward_s: float) -> None:
    """k of n ranks share one core: each goes n / k times as fast as with all of them, and no bubble costs anything."""
    pace = tuple(ranks / busy for busy in range(1, ranks + 1))
    work = Work((forward_s,) * ranks, (2 * forward_s,) * ranks, hides=False, pace=pace)
    for schedule in (gpipe(ranks, microbatches), one_forward_one_backward(ranks, microbatches)):
        assert step_time(schedule, work).total_s == pytest.approx(microbatches * 3 * forward_s)


def test_two_of_four_workers_at_once_cost_no_bubble_on_two_cores() -> None:
    """One microbatch through two stages of two workers each: the other two wait, so that each stage takes half of what
    it takes while all four compute."""
    work = Work((2.0, 2.0), (4.0, 4.0), hides=False, pace=(2.0, 1.0))
    assert step_time(gpipe(2, 1), work).total_s == pytest.approx(6.0)


def test_waking_up_may_cost_more_than_shared_cores_do() -> None:
    """At half pace throughout everything takes twice as long."""
    plain = Work((2.0, 2.0), (4.0, 4.0), hides=False)
    slow = replace(plain, pace=(0.5, 0.5))
    schedule = one_forward_one_backward(2, 3)
    assert step_time(schedule, slow).total_s == pytest.approx(2 * step_time(schedule, plain).total_s)


@pytest.mark.parametrize("pace", [(0.5, 1.0), (1.0, 0.0)])
def test_no_rank_is_slower_while_fewer_compute(pace: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="slower while fewer"):
        play(gpipe(2, 1), Work((1.0, 1.0), (1.0, 1.0), pace=pace))


def test_who_gets_a_message_wakes_up_before_it_begins() -> None:
    """One microbatch through three stages: two messages forwards, two back; the first forward and the last stage's
    backward wait for nobody. One rank is at work at a time."""
    work = Work((2.0,) * 3, (4.0,) * 3, hides=False, pace=(2.0, 1.0, 1.0), wake_s=(0.5, 9.0, 9.0))
    assert step_time(gpipe(3, 1), work).total_s == pytest.approx(3 * 1.0 + 3 * 2.0 + 4 * 0.5)


def test_a_stage_that_follows_on_the_same_rank_wakes_nobody() -> None:
    """Two ranks of two stages each, in a V: both stages in the middle are the second rank's."""
    schedule = zero_bubble_v(2, 4)
    work = Work((1.0,) * 4, (2.0,) * 4, hides=False, wake_s=(0.5, 0.5), input_s=(1.0,) * 4, weight_s=(1.0,) * 4)
    plain = replace(work, wake_s=())
    first = 3 * schedule.microbatches  # the slot of the last stage's first forward, which comes after two messages
    added = play(schedule, work).ends_s[first] - play(schedule, plain).ends_s[first]
    assert added == pytest.approx(0.5 * 2)
