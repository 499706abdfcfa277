"""Parts of a microbatch overlapped, against the longest path through what must precede what, and closed forms."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.planner.cost.overlap import Parts, exposed_s, whole_s

times = st.floats(0.0, 5.0).map(lambda each: round(each, 3))


def longest_path_s(parts: Parts, experts_s: float) -> float:
    """Program order as the runtime has it: rounds in which every begun part goes a piece, the newest first. A piece
    waits for the part's transfer, computes where it is the one that has arrived everywhere, and starts the next one."""
    ways = [("between", parts.between_s), ("inside", parts.inside_s), ("inside", parts.back_s)]
    ways += [("between", parts.between_s)]
    if parts.inside_s == parts.back_s == 0:
        ways = [ways[0], ways[-1]]
    program = []  # (kind, part, place)
    for number in range(parts.count + len(ways)):
        for part in reversed(range(parts.count)):
            piece = number - part
            if 0 <= piece <= len(ways):
                program += [("wait", part, piece - 1)] if piece else []
                program += [("compute", part, 0)] if piece == len(ways) // 2 else []
                program += [("send", part, piece)] if piece < len(ways) else []

    @cache
    def done(at: int) -> float:
        kind, part, place = program[at]
        host = [other for other in range(at) if program[other][0] != "send"]
        before = done(host[-1]) if host else 0.0
        if kind == "compute":
            return before + experts_s / parts.count
        if kind == "wait":
            return max(before, done(program.index(("send", part, place))))
        link = ways[place][0]
        same = [other for other in range(at) if program[other][0] == "send" and ways[program[other][2]][0] == link]
        return max(before, done(same[-1]) if same else 0.0) + ways[place][1]

    return max(done(at) for at in range(len(program)))


@given(st.integers(1, 6), times, times, times, times)
def test_is_the_longest_path_through_what_precedes_what(count, between_s, inside_s, back_s, experts_s):
    parts = Parts(count, between_s, inside_s, back_s)
    assert whole_s(parts, experts_s) == pytest.approx(longest_path_s(parts, experts_s), abs=1e-9)


@given(st.integers(1, 8), times, times, times, times)
def test_no_less_than_any_one_of_them_alone_and_no_more_than_all_in_turn(count, between_s, inside_s, back_s, experts_s):
    parts = Parts(count, between_s, inside_s, back_s)
    whole = whole_s(parts, experts_s)
    alone = max(experts_s, 2 * count * between_s, count * (inside_s + back_s))
    assert alone - 1e-9 <= whole <= parts.transfers_s + experts_s + 1e-9


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_products_that_are_longer_hide_all_but_the_first_and_the_last_transfer(count):
    parts = Parts(count, between_s=0.3, inside_s=0.0, back_s=0.0)
    assert whole_s(parts, count * 1.0) == pytest.approx(0.3 + count + 0.3)


@pytest.mark.parametrize("count", [2, 4, 7])
def test_transfers_that_are_longer_hide_all_products_but_what_two_are_apart(count):
    """The link is busy from the first dispatch to the last combine, but for the last part's products."""
    parts = Parts(count, between_s=1.0, inside_s=0.0, back_s=0.0)
    assert whole_s(parts, count * 0.2) == pytest.approx(2 * count * 1.0 + (0.2 if count == 1 else 0.0), abs=0.2 + 1e-9)


def test_one_part_hides_nothing_and_a_processor_that_sends_by_itself_neither():
    assert exposed_s(Parts(1, 1.0, 0.5, 0.25), 4.0, steal=0.3, hides=True) == 2.75
    assert exposed_s(Parts(2, 1.0, 0.5, 0.25), 4.0, steal=0.3, hides=False) == 5.5


def test_hidden_transfers_take_their_share_of_the_products_beside_them():
    parts = Parts(4, between_s=0.25, inside_s=0.0, back_s=0.0)
    free, stolen = (exposed_s(parts, 8.0, steal, hides=True) for steal in (0.0, 0.5))
    assert free == pytest.approx(0.5)
    assert stolen == pytest.approx(0.5 + 0.5 * 1.5)


@given(st.integers(2, 6))
def test_links_inside_and_between_nodes_work_at_once(count):
    """With nothing to compute, parts on both links take less than one after the other."""
    both = Parts(count, between_s=1.0, inside_s=1.0, back_s=1.0)
    assert whole_s(both, 0.0) < both.transfers_s
