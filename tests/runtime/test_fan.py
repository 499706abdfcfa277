"""A fan copies and adds up as loops over rows do, in any order of choices."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from meshwright.runtime.parallel.expert.fan import Fan, fan_to_choices, fan_to_parts
from meshwright.runtime.parallel.expert.transfer import Way, overlapped


@st.composite
def choices(draw: st.DrawFn, *, again: bool) -> tuple[Tensor, int]:
    """Of each row some of `count` numbers or none, -1; with `again` a number twice at one row too."""
    count, width = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    row = st.lists(st.integers(-1, count - 1), min_size=width, max_size=width)
    rows = [each for each in draw(st.lists(row, max_size=8)) if again or len({*each} - {-1}) + each.count(-1) == width]
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), width), count


def added_up(fan: Fan, rows: Tensor, few: int) -> Tensor:
    """Row by row."""
    total = torch.zeros(few, rows.shape[1])
    for owner, row in zip(fan.owner.tolist(), rows, strict=True):
        total[owner] += row
    return total


@settings(deadline=None)
@given(choices(again=True))
def test_a_row_goes_once_to_each_part_that_it_names(drawn: tuple[Tensor, int]) -> None:
    parts, count = drawn
    named = [{part for part in row if part >= 0} for row in parts.tolist()]
    owners = [row for part in range(count) for row, names in enumerate(named) if part in names]
    fan = fan_to_parts(parts, count, len(owners))
    assert fan.owner.tolist() == owners
    rows = torch.randn(len(owners), 3)
    torch.testing.assert_close(fan.back(rows), added_up(fan, rows, len(parts)))
    x = torch.randn(len(parts), 3)
    assert torch.equal(fan.out(x), x[owners])


@settings(deadline=None)
@given(choices(again=False))
def test_a_row_goes_to_each_of_its_slots(drawn: tuple[Tensor, int]) -> None:
    slots, count = drawn
    pairs = [(slot, row, at) for row, each in enumerate(slots.tolist()) for at, slot in enumerate(each) if slot >= 0]
    pairs.sort()
    few, choice, counts = fan_to_choices(slots, count, len(pairs))
    assert few.owner.tolist() == [row for _, row, _ in pairs]
    assert choice.owner.tolist() == [row * slots.shape[1] + at for _, row, at in pairs]
    assert counts.tolist() == [sum(slot == each for slot, _, _ in pairs) for each in range(count)]
    rows, weights = torch.randn(len(pairs), 3), torch.rand(len(pairs), 1)
    torch.testing.assert_close(few.back(rows, weights), added_up(few, rows * weights, len(slots)))


def test_gradients_are_those_of_the_sums() -> None:
    slots = torch.tensor([[2, -1, 0], [0, 1, 2], [-1, -1, -1], [1, 0, -1]])
    few, choice, _ = fan_to_choices(slots, 3, 7)
    parts = fan_to_parts(slots.div(2, rounding_mode="floor"), 2, 5)
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(12, 1, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, w: few.back(few.out(x).sin(), choice.out(w)), (x, weights))
    assert gradcheck(lambda x: parts.back(parts.out(x).sin()), (x,))


def test_a_new_way_begins_before_those_under_way_go_on() -> None:
    seen: list[str] = []

    def way(name: str) -> Way:
        for piece in range(3):
            seen.append(f"{name}{piece}")
            if piece < 2:
                yield
        return torch.tensor(ord(name))

    ends = overlapped([way(name) for name in "abc"])
    assert [int(end) for end in ends] == [97, 98, 99]
    assert seen == ["a0", "b0", "a1", "c0", "b1", "a2", "c1", "b2", "c2"]
