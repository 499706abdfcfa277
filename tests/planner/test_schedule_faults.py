"""The validator: every sound list passes, every mutilated one is caught, and each fault has its name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schedules import schedules

from meshwright.planner.schedule import Action, Schedule, check, faults, gpipe, one_forward_one_backward, zero_bubble_h1
from meshwright.planner.schedule import rows as module
from meshwright.planner.schedule.action import KINDS
from meshwright.planner.schedule.transfers import Transfer, check_transfers, with_transfers


def _with_row(schedule: Schedule, rank: int, row: list[Action]) -> Schedule:
    actions = (*schedule.actions[:rank], tuple(row), *schedule.actions[rank + 1 :])
    return replace(schedule, actions=actions, placement=schedule.places)


@settings(max_examples=150, deadline=None)
@given(schedules(), st.data())
def test_a_lost_action_is_missed(schedule: Schedule, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, schedule.ranks - 1))
    row = list(schedule.actions[rank])
    lost = row.pop(data.draw(st.integers(0, len(row) - 1)))
    found = faults(_with_row(schedule, rank, row))
    assert any(fault.action[1:] == lost[1:] and fault.rank == rank for fault in found)


@settings(max_examples=150, deadline=None)
@given(schedules(), st.data())
def test_an_action_that_is_listed_again_is_found(schedule: Schedule, data: st.DataObject) -> None:
    rank, to = (data.draw(st.integers(0, schedule.ranks - 1)) for _ in range(2))
    again = data.draw(st.sampled_from(schedule.actions[rank]))
    row = list(schedule.actions[to])
    place = data.draw(st.integers(0, len(row)))
    row.insert(place, again)
    rule = "is listed twice" if to == rank else "is on the wrong rank"
    assert any(rule in fault.rule and fault.action == again for fault in faults(_with_row(schedule, to, row)))


@settings(max_examples=150, deadline=None)
@given(schedules(), st.data())
def test_an_action_of_another_kind_is_found(schedule: Schedule, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, schedule.ranks - 1))
    row = list(schedule.actions[rank])
    place = data.draw(st.integers(0, len(row) - 1))
    other = data.draw(st.sampled_from([kind for kind in KINDS.values() if kind != row[place].kind]))
    row[place] = row[place]._replace(kind=other)
    assert faults(_with_row(schedule, rank, row))


@settings(max_examples=200, deadline=None)
@given(schedules(), st.data())
def test_shuffled_rows_pass_only_if_they_end(schedule: Schedule, data: st.DataObject) -> None:
    """The verdict is that of a search which knows nothing of order.py: go round the ranks until nothing moves."""
    rank = data.draw(st.integers(0, schedule.ranks - 1))
    row = list(schedule.actions[rank])
    first, second = (data.draw(st.integers(0, len(row) - 1)) for _ in range(2))
    assume(row[first] != row[second])
    row[first], row[second] = row[second], row[first]
    shuffled = _with_row(schedule, rank, row)
    assert (not faults(shuffled)) == _ends(shuffled)


def _ends(schedule: Schedule) -> bool:
    done: set[tuple[str, int, int]] = set()
    rows = [list(row) for row in schedule.actions]
    moved = True
    while moved:
        moved = False
        for row in rows:
            while row and _needs(schedule, row[0]) <= done:
                kind, stage, microbatch = row.pop(0)
                done |= {(kind, stage, microbatch)} | ({("back", stage, microbatch)} if kind in "BI" else set())
                moved = True
    return not any(rows)


def _needs(schedule: Schedule, action: Action) -> set[tuple[str, int, int]]:
    kind, stage, microbatch = action
    if kind == "F":
        return {("F", stage - 1, microbatch)} if stage else set()
    if kind == "W":
        return {("I", stage, microbatch)}
    ahead = {("back", stage + 1, microbatch)} if stage < schedule.stages - 1 else set()
    return {("F", stage, microbatch), *ahead}


@settings(max_examples=200, deadline=None)
@given(schedules())
def test_sends_that_block_never_lock(schedule: Schedule) -> None:
    rows = with_transfers(schedule)
    check_transfers(schedule, rows)
    listed = [[step for step in row if isinstance(step, Action)] for row in rows]
    assert [tuple(row) for row in listed] == list(schedule.actions)


def test_transfers_in_another_order_lock() -> None:
    """The textbook deadlock of 1F1B: both ranks send before either receives."""
    schedule = one_forward_one_backward(2, 2)
    rows = [list(row) for row in with_transfers(schedule)]
    for row, first, second in (
        (rows[0], "send F s0 m1", "receive B s0 m0"),
        (rows[1], "send B s1 m0", "receive F s1 m1"),
    ):
        names = [str(step) for step in row]
        moved = row.pop(names.index(second))
        row.insert([str(step) for step in row].index(first) + 1, moved)
    with pytest.raises(ValueError, match="transfers never end; rank 0 at send F s0 m1, rank 1 at send B s1 m0"):
        check_transfers(schedule, tuple(tuple(row) for row in rows))


def test_rows_that_lock_are_never_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = gpipe(2, 1)
    late = [sorted(row, key=lambda step: isinstance(step, Transfer)) for row in with_transfers(schedule)]
    monkeypatch.setattr(module, "with_transfers", lambda _: tuple(map(tuple, late)))
    for spread, wrong in ((False, "stands before what it needs"), (True, "is 0 times on rank 0")):
        with pytest.raises(ValueError, match=wrong):
            module.proven_rows(replace(schedule, spread=spread))


def test_an_action_before_what_it_receives() -> None:
    schedule = gpipe(2, 1)
    rows = with_transfers(schedule)
    late = tuple(sorted(rows[1], key=lambda step: isinstance(step, Transfer)))
    with pytest.raises(ValueError, match="F s1 m0 stands before what it needs"):
        check_transfers(schedule, (rows[0], late))


def test_two_ranks_that_wait_for_each_other() -> None:
    first = (Action("F", 0, 0), Action("B", 0, 0), Action("F", 0, 1), Action("B", 0, 1))
    second = (Action("F", 1, 0), Action("F", 1, 1), Action("B", 1, 0), Action("B", 1, 1))
    locked = Schedule("1f1b", 2, 2, 2, (first, second))
    with pytest.raises(ValueError, match="never ends; blocked: rank 0 at B s0 m0, for B s1 m0; rank 1 at F s1 m1"):
        _ = locked.order
    with pytest.raises(ValueError, match="B s0 m0 waits for ever for B s1 m0 of rank 1"):
        check(locked)


F, B, INPUT, WEIGHT = (Action(kind, 0, 0) for kind in KINDS.values())


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ((F,), "B s0 m0 is missing (rank 0)"),
        ((F, INPUT), "W s0 m0 is missing (rank 0)"),
        ((F, WEIGHT), "W s0 m0 has no input gradient (I) (rank 0, place 1)"),
        ((B,), "F s0 m0 is missing (rank 0)"),
        ((F, B, B), "B s0 m0 is listed twice (rank 0, place 2)"),
        ((B, F), "B s0 m0 stands before its forward (rank 0, place 0)"),
        ((F, WEIGHT, INPUT), "W s0 m0 stands before its input gradient (rank 0, place 1)"),
        ((F, B, INPUT, WEIGHT), "I s0 m0 is a half of a backward that is also listed whole (B) (rank 0, place 2)"),
        ((F, B, Action("F", 0, 1)), "F s0 m1 is unknown: kinds are F, B, I, W, stages 0-0, microbatches 0-0"),
        ((F, B, Action("F", 1, 0)), "F s1 m0 is unknown: kinds are F, B, I, W, stages 0-0, microbatches 0-0"),
    ],
)
def test_faults_have_names(row: tuple[Action, ...], fault: str) -> None:
    found = [str(each) for each in faults(Schedule("gpipe", 1, 1, 1, (row,)))]
    assert any(each.startswith(fault) for each in found), found


def test_an_action_on_a_strange_rank() -> None:
    rows = one_forward_one_backward(2, 1).actions
    with pytest.raises(ValueError, match="F s1 m0 is on the wrong rank: stage 1 is on rank 1"):
        check(Schedule("1f1b", 2, 2, 1, rows[::-1]))


def test_every_fault_of_a_list_is_told() -> None:
    schedule = zero_bubble_h1(2, 3)
    broken = replace(schedule, actions=(schedule.actions[0][1:], schedule.actions[1][:-1]))
    assert [str(fault) for fault in faults(broken)] == [
        "F s0 m0 is missing (rank 0)",
        "W s1 m2 is missing (rank 1)",
    ]
