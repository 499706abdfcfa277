"""The solver against trying everything, and what must hold of every assignment."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

sys.path.insert(0, str(Path(__file__).parent))

from instances import by_trying_everything, instance, instances

from meshwright.planner.lengths.assignment import Assignment, Group, Round, faults
from meshwright.planner.lengths.bound import lines, lower_bound_s
from meshwright.planner.lengths.exact import is_small, solve_exactly
from meshwright.planner.lengths.greedy import deal, greedy
from meshwright.planner.lengths.improve import improve
from meshwright.planner.lengths.instance import check_instance
from meshwright.planner.lengths.packing import packed
from meshwright.planner.lengths.solve import _good, solve


@settings(deadline=None, max_examples=60)
@given(instances(most=5))
def test_small_steps_are_solved_exactly(one):
    found = solve(one)
    assert found.exact
    assert found.gap == 0
    assert found.seconds == pytest.approx(by_trying_everything(one), rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(instances(most=6))
def test_no_assignment_takes_less_than_the_bound(one):
    assert lower_bound_s(one) <= solve_exactly(one).seconds * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(instances(most=6))
def test_the_gap_of_the_heuristic_is_what_it_says(one):
    bound_s, best = lower_bound_s(one), solve_exactly(one)
    found = _good(one, bound_s, 0.0) if one.count else best
    assert faults(one, found) == []
    assert bound_s <= best.seconds * (1 + 1e-9)
    assert best.seconds <= found.seconds * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(instances(most=40))
def test_assignments_can_be_run_and_are_the_same_again(one):
    found = solve(one)
    assert faults(one, found.assignment) == []
    assert found.bound_s <= found.seconds * (1 + 1e-9)
    assert 0 <= found.gap < 1
    assert solve(one).assignment == found.assignment


@settings(deadline=None, max_examples=40)
@given(instances(most=30))
def test_a_fixed_degree_is_never_faster_than_the_mix_is_bound(one):
    for degree in one.degrees:
        fixed = one.only(degree)
        if fixed.fits.all():
            assert solve(fixed).seconds >= lower_bound_s(one) * (1 - 1e-9)


@settings(deadline=None, max_examples=60)
@given(instances(most=3))
def test_lines_lie_under_the_cost_of_tokens(one):
    tokens = np.linspace(1, float(one.capacity.max()), 97)
    heights = np.interp(tokens, one.knots, one.linear_s)
    for intercept, slope in lines(one):
        assert intercept >= 0
        assert slope >= 0
        assert np.all(intercept + slope * tokens <= heights * (1 + 1e-9))


def test_improving_never_makes_a_step_longer():
    one = instance([60, 3, 5, 7, 30, 30, 31, 2, 9, 90, 4, 4], lanes=4)
    rounds = greedy(one, 2, 1.0)
    assert rounds is not None
    before = Assignment(tuple(_laid(packs) for packs in rounds))
    after = improve(one, before)
    assert faults(one, after) == []
    assert after.seconds <= before.seconds


def _laid(packs):
    """On lanes, wide groups first."""
    first, groups = 0, []
    for pack in sorted(packs, key=lambda pack: -pack.degree):
        groups.append(Group(pack.degree, first, pack.sequences, pack.seconds))
        first += pack.degree
    return Round(tuple(groups))


def test_long_sequences_get_wide_groups_and_short_ones_do_not():
    """Eight lanes, one sequence that fills all of them, and many that fit one lane."""
    found = solve(instance([8 * 64, *[8] * 40], lanes=8, exchange=1.0))
    widths = {len(group.sequences) and group.degree for each in found.assignment.rounds for group in each.groups}
    assert {1, 8} <= widths


def test_equal_short_sequences_in_closed_form():
    """Sixteen sequences of 8 tokens on four lanes, exchange dear: four on each lane, 1 + 0.25 x 32 + 4 x 0.02 x 64."""
    found = solve(instance([8] * 16, lanes=4, exchange=50.0))
    assert found.exact
    assert found.seconds == pytest.approx(1 + 0.25 * 32 + 4 * 0.02 * 64)


def test_more_lanes_are_never_slower():
    lengths = [40, 12, 7, 60, 33, 5, 18]
    times = [solve(instance(lengths, lanes=lanes)).seconds for lanes in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)


def test_a_sequence_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match="sequence 1 fits no group"):
        solve(instance([5, 4 * 64 + 1], lanes=4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"degrees": (1, 3, 4)}, "powers of two"),
        ({"degrees": (2, 1, 4)}, "ascend"),
        ({"linear_s": np.array([3.0, 2.0, 4.0])}, "must not fall"),
    ],
)
def test_what_is_no_instance_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        check_instance(replace(instance([5]), **changes))


def test_faults_are_found():
    one = instance([5, 60, 60], lanes=4)
    taken = Round((Group(2, 1, (0,), 1.0), Group(2, 2, (1, 2), 1.0)))
    found = faults(one, Assignment((taken, Round((Group(1, 4, (0,), 1.0),)))))
    assert len(found) == 4
    assert "trained once" in found[0]
    assert faults(one, Assignment((Round((Group(1, 0, (0, 1, 2), 1.0),)),)))[0].endswith("too many tokens")


def test_plain_packing_fills_rows_first_fit():
    one = instance([50, 30, 30, 14, 20], lanes=2).only(1)
    rounds = packed(one, 64)
    assert [[pack.sequences for pack in packs] for packs in rounds] == [[(0, 3), (1, 2)], [(4,)]]


def test_rounds_hold_as_many_lanes_as_there_are():
    one = instance([3] * 9, lanes=4)
    packs = [pack for packs in greedy(one, 1, 100.0) for pack in packs]
    for inside in deal(2, packs):
        assert sum(pack.degree for pack in inside) <= 2


def test_equal_sequences_keep_a_step_small():
    assert is_small(instance([8] * 60, lanes=2))
    assert not is_small(instance(list(range(1, 30)), lanes=2))
