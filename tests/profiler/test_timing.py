"""Typical times: outliers do not move them, order and scale do not matter."""

from __future__ import annotations

import random
from math import comb, exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.profiler.timing import (
    FEWEST,
    MOST,
    TIGHT,
    _rank,
    relative_interval,
    seconds_of,
    settled,
    timed,
    typical,
)


@settings(max_examples=50, deadline=None)
@given(base=st.floats(1e-6, 1.0), noise=st.lists(st.floats(0, 0.05), min_size=7, max_size=20), spikes=st.integers(1, 3))
def test_a_few_interruptions_do_not_move_the_result(base, noise, spikes):
    quiet = [base * (1 + each) for each in noise]
    assert min(quiet) <= typical([*quiet, *([base * 50] * spikes)]) <= max(quiet)


def test_equal_samples():
    assert typical([2.0, 2.0, 2.0]) == 2.0


def test_every_call_gets_its_own_index_and_all_are_waited_for():
    seen, waited = [], []
    assert seconds_of(seen.append, lambda: waited.append(len(seen)), budget_s=0.001) > 0
    assert seen[0] == 0
    assert seen[2:] == list(range(2, 2 + len(seen) - 2))
    assert waited[-1] == len(seen)


@pytest.mark.parametrize("budget_s", [0.0, 0.02])
def test_at_least_three_batches_whatever_the_budget(budget_s):
    waited = []
    seconds_of(lambda _: None, lambda: waited.append(1), budget_s)
    assert len(waited) >= 5  # the warm-up, the first batch and three more


def quiet(noise, seed=0):
    """Endless samples around a second."""
    among = random.Random(seed)
    while True:
        yield exp(among.gauss(0, noise))


def stopped(samples, limit=1000):
    """With a clock that each sample moves on by one."""
    drawn = []

    def told():
        for each in samples:
            drawn.append(each)
            yield each

    return settled(told(), limit, clock=lambda: float(len(drawn))), drawn


def test_quiet_data_stops_early_and_noisy_data_late():
    early, late = stopped(quiet(0.005))[0], stopped(quiet(0.2))[0]
    assert early.samples == FEWEST
    assert early.spread <= TIGHT
    assert late.samples > 3 * FEWEST
    assert stopped(quiet(0.05))[0].samples <= late.samples <= MOST


def test_the_time_ends_it_too_but_not_before_three():
    assert [stopped(quiet(0.5), limit)[0].samples for limit in (0, 1, 5, 9)] == [3, 3, 5, 9]


def test_what_it_says_is_the_median_within_its_spread():
    found, drawn = stopped(quiet(0.02))
    assert found.seconds == typical(drawn)
    assert abs(found.seconds - 1) < 3 * found.spread + 0.01


@pytest.mark.parametrize("n", [6, 9, 12, 20, 50])
def test_the_interval_holds_the_median_as_often_as_it_says(n):
    """Without outliers: of uniform samples, whose median is known. At least 95 % less what the rejection takes."""
    among = random.Random(n)
    rank = _rank(n)
    inside = 0
    for _ in range(4000):
        drawn = sorted(among.random() for _ in range(n))
        inside += drawn[rank] <= 0.5 <= drawn[-1 - rank]
    assert inside / 4000 > 0.94
    if rank + 1 < n // 2:  # and one rank further in would not do
        tighter = 1 - 2 * sum(comb(n, each) for each in range(rank + 2)) / 2**n
        assert tighter < 0.95


def test_an_interruption_does_not_widen_the_interval():
    samples = [1.0, 1.001, 0.999, 1.0, 1.002, 0.998, 1.001]
    assert relative_interval([*samples, 50.0]) == pytest.approx(relative_interval(samples), abs=1e-3)


def test_timed_calls_with_indices_of_their_own():
    seen = []
    found = timed(seen.append, lambda: None, limit_s=0.01)
    assert seen == [0, 1, *range(2, len(seen))]
    assert found.seconds > 0
    assert 3 <= found.samples <= MOST
