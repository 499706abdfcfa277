"""Passes of a spread vocabulary in any schedule: all there, and their rows end under blocking sends."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import schedules

from meshwright.planner.schedule import Schedule, check, make, names, one_forward_one_backward, table
from meshwright.planner.schedule.pass_check import check_passes
from meshwright.planner.schedule.passes import KINDS, Pass, drawn, logits_waiting
from meshwright.planner.schedule.table import held_by
from meshwright.planner.schedule.table import spread as spread_schedule
from meshwright.planner.schedule.transfers import with_transfers


@st.composite
def spread(draw: st.DrawFn) -> Schedule:
    """Any schedule that can be asked for by name, with or without more microbatches in flight."""
    schedule = draw(schedules())
    return replace(drawn(schedule) if draw(st.booleans()) else schedule, spread=True)


@settings(max_examples=100, deadline=None)
@given(spread())
def test_every_schedule_ends_with_passes(schedule: Schedule) -> None:
    check(schedule)
    check_passes(schedule, with_transfers(schedule))


@settings(max_examples=50, deadline=None)
@given(schedules())
def test_drawing_forwards_moves_nothing_else(schedule: Schedule) -> None:
    found = drawn(schedule)
    for before, after in zip(schedule.actions, found.actions, strict=True):
        for wanted in ("F", "BIW"):
            assert [a for a in before if a.kind in wanted] == [a for a in after if a.kind in wanted]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_1f1b_holds_two_microbatches_more(ranks: int) -> None:
    """p + 2: arXiv:2411.05288, figure 10 (a), with two barriers between the output layer's passes."""
    found = drawn(one_forward_one_backward(ranks, 4 * ranks))
    assert [found.in_flight(rank) for rank in range(ranks)] == [ranks - rank + 2 for rank in range(ranks)]
    assert logits_waiting(replace(found, spread=True)) <= 2


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("ranks", [2, 3, 4, 6, 8])
def test_closed_forms_are_what_a_play_of_the_list_shows(name: str, ranks: int) -> None:
    builder = table()[name]
    for chunks, microbatches in product(range(1, 5), (1, 2, 3, ranks - 1, ranks, ranks + 1, 2 * ranks, 3 * ranks)):
        if chunks not in builder.chunks or (builder.whole_groups and microbatches % ranks):
            continue
        listed, plain = spread_schedule(name, ranks, microbatches, chunks, ()), make(name, ranks, microbatches, chunks)
        assert min(builder.waiting, microbatches) == logits_waiting(listed)
        for closed, played in ((builder.held_spread, listed), (builder.held, plain)):
            last = played.rank_of(played.stages - 1)
            for rank in range(ranks) if closed else ():
                held, found = closed(ranks, microbatches, chunks, rank), held_by(played, rank)
                assert held is None or held.moments == found.moments
                assert held is None or rank != last or held.losses == found.losses


def _rows(schedule: Schedule) -> list[list[Any]]:
    return [list(row) for row in with_transfers(schedule)]


@settings(max_examples=100, deadline=None)
@given(spread(), st.data())
def test_a_lost_pass_is_missed(schedule: Schedule, data: st.DataObject) -> None:
    rows = _rows(schedule)
    rank = data.draw(st.integers(0, schedule.ranks - 1))
    lost = data.draw(st.sampled_from([step for step in rows[rank] if isinstance(step, Pass)]))
    rows[rank].remove(lost)
    with pytest.raises(ValueError, match=f"{lost} is 0 times on rank {rank}"):
        check_passes(schedule, rows)


@settings(max_examples=100, deadline=None)
@given(spread(), st.sampled_from(KINDS), st.data())
def test_another_order_of_collectives_on_one_rank_is_found(schedule: Schedule, kind: str, data: st.DataObject) -> None:
    rows = _rows(schedule)
    rank = data.draw(st.integers(0, schedule.ranks - 1))
    places = [place for place, step in enumerate(rows[rank]) if isinstance(step, Pass) and step.kind == kind]
    if len(places) < 2 or schedule.ranks < 2:
        return
    first, second = places[:2]
    rows[rank][first], rows[rank][second] = rows[rank][second], rows[rank][first]
    with pytest.raises(ValueError, match=f"passes {kind} come in another order"):
        check_passes(schedule, rows)


@pytest.mark.parametrize(
    ("kind", "before"),
    [("S", "F s1 m0"), ("G", "S m0"), ("T", "B s0 m0")],
)
def test_a_pass_before_what_it_needs_waits_for_ever(kind: str, before: str) -> None:
    """On the rank that makes what it waits for."""
    schedule = replace(drawn(make("1f1b", 2, 3)), spread=True)
    rows = _rows(schedule)
    row = next(row for row in rows if any(str(step) == before for step in row))
    step = next(step for step in row if isinstance(step, Pass) and step.kind == kind and step.microbatch == 0)
    row.remove(step)
    row.insert(next(place for place, each in enumerate(row) if str(each) == before), step)
    with pytest.raises(ValueError, match="passes never end"):
        check_passes(schedule, rows)


def test_an_embedding_after_its_forward_waits_for_ever() -> None:
    schedule = replace(drawn(make("1f1b", 2, 3)), spread=True)
    rows = _rows(schedule)
    late = Pass("E", 0, 1)
    rows[1].remove(late)
    place = next(place for place, step in enumerate(rows[1]) if str(step) == "F s1 m0")
    rows[1].insert(place + 1, late)
    rows[1].remove(Pass("E", 1, 1))  # behind it, to keep the order of the others
    rows[1].insert(place + 2, Pass("E", 1, 1))
    rows[1].remove(Pass("E", 2, 1))
    rows[1].insert(place + 3, Pass("E", 2, 1))
    with pytest.raises(ValueError, match="passes never end"):
        check_passes(schedule, rows)
