"""Topology from matrices of which the answer is known: built, then disturbed by some percent."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.profiler.links_pairs import rate, shared_rate
from meshwright.profiler.links_topology import Slow, find_topology, host_pairs, is_slow, parts
from meshwright.tests.cluster.scenario import SCENARIOS, Scenario


def rates(scenario, noise=0.0, seed=0):
    """Bytes per second of every pair."""
    draw = random.Random(seed)
    pairs = [(a, b) for a in range(scenario.hosts) for b in range(a + 1, scenario.hosts)]
    return {pair: scenario.bytes_per_s(*pair) * (1 + draw.uniform(-noise, noise)) for pair in pairs}


def found_as_built(scenario, found):
    assert set(found.racks) == set(scenario.racks)
    assert set(found.groups) == set(scenario.groups or (tuple(range(scenario.hosts)),))
    assert [slow.hosts for slow in found.slow_hosts] == [(host,) for host in (scenario.slow_host,) if host is not None]
    assert [slow.hosts for slow in found.slow_links] == [link for link in (scenario.slow_link,) if link]


LARGER = (
    Scenario("8 hosts, racks in turns", (400.0,) * 8, ((0, 2, 4, 6), (1, 3, 5, 7)), uplink_mbit=400),
    Scenario("three racks", (400.0,) * 6, ((0, 1), (2, 3), (4, 5)), uplink_mbit=200),
    Scenario("a slow host in a rack", (200, 200, 50, 200, 200, 200), ((0, 1, 2), (3, 4, 5)), 120, slow_host=2),
    Scenario("a slow link among eight", (100.0,) * 8, (tuple(range(8)),), slow_link=(2, 5), slow_mbit=50),
    Scenario("three kinds", (50, 50, 100, 100, 200, 200), (tuple(range(6)),), groups=((0, 1), (2, 3), (4, 5))),
    Scenario("nothing wrong", (200.0,) * 5, (tuple(range(5)),)),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(scenario=st.sampled_from(SCENARIOS + LARGER), noise=st.sampled_from([0.0, 0.01, 0.03]), seed=st.integers(0, 99))
def test_what_was_built_is_found(scenario, noise, seed):
    found_as_built(scenario, find_topology(scenario.hosts, rates(scenario, noise, seed)))


def test_a_slow_link_is_named_with_what_is_usual():
    (slow,) = find_topology(4, rates(SCENARIOS[2])).slow_links
    assert slow == Slow((1, 2), pytest.approx(5e6), pytest.approx(25e6))


LATE = st.lists(st.floats(0, 1), min_size=2, max_size=4)


@given(late=st.lists(st.tuples(LATE, LATE), min_size=6, max_size=6), latency_s=st.floats(0, 0.01))
def test_however_late_some_messages_are_the_slow_link_and_no_other_is_named(late, latency_s):
    """Of each pair and size one message came through: medians would be late by any factor."""
    built, measured = rates(SCENARIOS[2]), {}
    for (pair, bytes_per_s), (small, large) in zip(built.items(), late, strict=True):
        times = ([latency_s + size / bytes_per_s + more_s for more_s in (0, *more)]
                 for size, more in ((2**18, small), (2**20, large)))  # fmt: skip
        measured[pair] = rate(2**20 - 2**18, *times)
    assert measured == pytest.approx(built)
    found_as_built(SCENARIOS[2], find_topology(4, measured))


def test_pairs_that_share_a_path_are_not_as_fast_as_one_that_was_alone():
    """Two pairs share 10 MB/s; one message of each came while the other pair had nothing on its way."""
    shared, alone = ([size / bytes_per_s for size in (2**18, 2**20)] for bytes_per_s in (5e6, 10e6))
    small, large = ([shared[place], alone[place], shared[place]] for place in range(2))
    assert shared_rate(2**20, large) == pytest.approx(5e6)
    assert rate(2**20 - 2**18, small, large) == pytest.approx(10e6)


def test_noise_alone_names_nothing():
    """Where all links differ by much, a link at the edge of that is not slow."""
    values = [100, 140, 75, 120, 88, 160]
    assert not any(is_slow(value, values) for value in values)
    assert is_slow(10, values)


@pytest.mark.parametrize(("value", "slow"), [(86, False), (84, True)])
def test_fifteen_percent_are_the_least(value, slow):
    assert is_slow(value, [100, 100, 100, value]) is slow


@pytest.mark.parametrize(("rate", "slow"), [(34.0, False), (20.0, True)])
def test_a_pair_that_had_its_share_of_an_uplink_is_not_slow(rate, slow):
    """Racks 0-2 and 1-3 share 80; another pair had all of it while this one was measured, by chance."""
    rates = {(0, 2): 200.0, (1, 3): 200.0, (0, 1): rate, (0, 3): 77.0, (1, 2): 76.0, (2, 3): 79.0}
    found = find_topology(4, rates, {(0, 1): 40.0, (2, 3): 40.0})
    assert found.racks == ((0, 2), (1, 3))
    assert [each.hosts for each in found.slow_links] == ([(0, 1)] if slow else [])


def test_pairs_that_were_not_measured_say_nothing():
    found = find_topology(4, {(0, 1): 1e9, (1, 2): 1e9, (2, 3): 1e9})
    assert (found.racks, found.slow_hosts, found.slow_links) == (((0, 1, 2, 3),), (), ())


def test_a_host_has_what_its_workers_have_together_in_the_slower_direction():
    rows = [[0, 2, 10.0, 20.0, 0.0], [1, 3, 30.0, 5.0, 0.0], [0, 1, 99.0, 99.0, 0.0]]
    assert host_pairs([(0, 1), (2, 3)], rows) == {(0, 1): 25.0}


def test_parts_are_in_the_order_of_their_first_members():
    assert parts(5, [(3, 1), (4, 0)]) == ((0, 4), (1, 3), (2,))


def test_a_host_that_nobody_reaches_is_told_and_takes_nothing_away():
    found = find_topology(4, {(0, 1): 1e9, (0, 2): 1e9, (1, 2): 1e9})
    assert found.racks == ((0, 1, 2), (3,))
    assert [(slow.hosts, slow.rate) for slow in found.slow_hosts] == [((3,), 0.0)]
    assert not is_slow(0, [0, 0])
