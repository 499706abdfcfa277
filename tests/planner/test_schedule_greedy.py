"""List scheduling under caps: always sound, never fuller than it may be, as good as the closed forms where these
are."""

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
    gpipe,
    greedy,
    limited,
    one_forward_one_backward,
)
from meshwright.planner.schedule.action import Kind
from meshwright.planner.schedule.greedy import Seconds
from meshwright.planner.schedule.placement import loop, vee
from meshwright.planner.simulate.engine import makespan
from meshwright.planner.simulate.work import Work


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, tuple[int, ...], list[int], Seconds]:
    """Microbatches, placement, caps, seconds."""
    ranks, more = draw(st.integers(1, 4)), draw(st.integers(0, 8))
    further = draw(st.lists(st.integers(0, ranks - 1), min_size=min(more, 2 * ranks), max_size=min(more, 2 * ranks)))
    placement = tuple(draw(st.permutations([*range(ranks), *further])))
    caps = [placement.count(rank) + draw(st.integers(0, 4)) for rank in range(ranks)]
    each = st.lists(st.floats(0.1, 5.0), min_size=len(placement), max_size=len(placement))
    kinds: tuple[Kind, ...] = ("F", "I", "W")
    return draw(st.integers(1, 8)), placement, caps, {kind: draw(each) for kind in kinds}


@settings(max_examples=200, deadline=None)
@given(problems())
def test_greedy_is_sound_and_within_its_caps(problem: tuple[int, tuple[int, ...], list[int], Seconds]) -> None:
    """Any placement, any durations: no cap that leaves room for the stages of a rank locks it."""
    microbatches, placement, caps, seconds = problem
    schedule = greedy("greedy", microbatches, placement, caps, seconds)
    check(schedule)
    assert all(schedule.in_flight(rank) <= cap for rank, cap in enumerate(caps))


def test_a_cap_below_the_stages_of_a_rank_is_refused() -> None:
    seconds: Seconds = {"F": (1.0,) * 4, "I": (1.0,) * 4, "W": (1.0,) * 4}
    with pytest.raises(ValueError, match="rank 1 has 2 stages, and cannot hold fewer microbatches than that: 1"):
        greedy("greedy", 4, vee(2, 4), [2, 1], seconds)


@settings(max_examples=100, deadline=None)
@given(schedules(most_ranks=4, most_microbatches=8), st.integers(0, 6))
def test_limits_hold_and_keep_what_was_listed(schedule: Schedule, room: int) -> None:
    caps = [len(schedule.stages_of(rank)) + room for rank in range(schedule.ranks)]
    found = limited(schedule, caps)
    check(found)
    assert all(found.in_flight(rank) <= cap for rank, cap in enumerate(caps))
    assert [sorted(row) for row in found.actions] == [sorted(row) for row in schedule.actions]
    if all(schedule.in_flight(rank) <= cap for rank, cap in enumerate(caps)):
        assert found is schedule


@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 6), (4, 9), (6, 6)])
def test_gpipe_with_the_room_of_1f1b_is_as_fast(ranks: int, microbatches: int) -> None:
    work = Work((1.0,) * ranks, (2.0,) * ranks)
    found = limited(gpipe(ranks, microbatches), [ranks - rank for rank in range(ranks)])
    assert makespan(found, work) == makespan(one_forward_one_backward(ranks, microbatches), work)


@pytest.mark.parametrize("ranks", [2, 4, 6])
def test_more_room_ends_the_bubble(ranks: int) -> None:
    """With room for 2p - 1 microbatches nothing is left but the way of the first (ZB-H2, arXiv:2401.10241, table 2);
    with room for p, less than 1F1B leaves."""
    microbatches = 4 * ranks
    seconds: Seconds = {"F": (1.0,) * ranks, "I": (1.0,) * ranks, "W": (1.0,) * ranks}
    work = Work((1.0,) * ranks, (2.0,) * ranks, input_s=(1.0,) * ranks, weight_s=(1.0,) * ranks)
    wide, narrow = (
        greedy("greedy", microbatches, loop(ranks, ranks), [cap] * ranks, seconds) for cap in (2 * ranks - 1, ranks)
    )
    assert makespan(wide, work) == 3 * microbatches + ranks - 1
    assert makespan(narrow, work) < makespan(one_forward_one_backward(ranks, microbatches), work)


def test_a_configuration_says_what_ranks_may_hold() -> None:
    def built(in_flight: tuple[int, ...]) -> list[int]:
        configuration = Configuration(
            mesh=Mesh(pp=2),
            stage_layers=(1, 1),
            microbatch=1,
            microbatches=6,
            schedule="gpipe",
            in_flight=in_flight,
        )
        return [build(configuration).in_flight(rank) for rank in range(2)]

    assert (built(()), built((3,)), built((2, 1))) == ([6, 6], [3, 3], [2, 1])
