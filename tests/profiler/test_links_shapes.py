"""Shapes of groups and the tournament of pairs, by counting."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.profiler.links_shapes import crossings, rails, rounds, shapes, without_dead


@given(st.sets(st.integers(0, 99), min_size=2, max_size=17))
def test_every_pair_meets_once_and_nobody_twice_in_a_round(ranks):
    tournament = list(rounds(sorted(ranks)))
    assert len(tournament) == len(ranks) - 1 + len(ranks) % 2
    for pairs in tournament:
        busy = [rank for pair in pairs for rank in pair]
        assert len(set(busy)) == len(busy)
    met = [pair for pairs in tournament for pair in pairs]
    assert sorted(met) == list(combinations(sorted(ranks), 2))


def test_one_host():
    found = {shape.name: shape.groups for shape in shapes([(0, 1, 2, 3)])}
    assert found == {"inside 2": ((0, 1), (2, 3)), "inside 4": ((0, 1, 2, 3),)}


def test_hosts_with_several_workers():
    found = {shape.name: shape.groups for shape in shapes([(0, 1), (2, 3), (4, 5)])}
    assert found == {
        "inside 2": ((0, 1), (2, 3), (4, 5)),
        "across 2": ((0, 2), (1, 3)),
        "across 3": ((0, 2, 4), (1, 3, 5)),
        "mixed 6": ((0, 1, 2, 3, 4, 5),),
    }


@pytest.mark.parametrize("hosts", [[(0, 1, 2), (3,)], [(0,), (1,), (2,), (3,), (4,)], [(0,), (1,)]])
def test_a_worker_is_in_one_group_of_a_shape_at_most(hosts):
    for shape in shapes(hosts):
        members = [rank for group in shape.groups for rank in group]
        assert len(set(members)) == len(members)
        assert {len(group) for group in shape.groups} == {shape.members}


def test_rails_join_the_same_places_of_two_hosts():
    assert rails([(0, 1), (2, 3)]) == [((0, 2), (1, 3))]


def test_crossings_join_all_that_can_cross():
    assert crossings([(0, 2), (1,)], [(0, 1), (2, 3), (4, 5)]) == [((0, 2), (1, 3))]


@given(st.integers(2, 9), st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=12))
def test_those_left_reach_each_other_and_nobody_leaves_for_nothing(size, pairs):
    dead = {pair for pair in pairs if pair[0] < pair[1] < size}
    left = without_dead(range(size), dead)
    assert not any(pair in dead for pair in combinations(left, 2))
    if not dead:
        assert left == list(range(size))


def test_the_worker_that_nobody_reaches_leaves():
    assert without_dead(range(4), [(0, 2), (1, 2), (2, 3)]) == [0, 1, 3]
