"""Splits over stages whose devices differ, against brute force."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.search.partition import balanced_split
from meshwright.planner.search.uneven import uneven_split


def splits(layers, stages):
    """All ways to give every stage at least one layer."""
    for cuts in itertools.combinations(range(1, layers), stages - 1):
        yield tuple(b - a for a, b in itertools.pairwise((0, *cuts, layers)))


def slowest(counts, layer_s, first_s, last_s):
    starts = [0, *itertools.accumulate(counts)]
    times = [sum(times[a:b]) for times, (a, b) in zip(layer_s, itertools.pairwise(starts), strict=True)]
    times[0] += first_s
    times[-1] += last_s
    return max(times)


@settings(max_examples=200, deadline=None)
@given(
    layers=st.integers(1, 8),
    ends=st.tuples(st.floats(0, 20), st.floats(0, 20)),
    data=st.data(),
)
def test_the_slowest_stage_is_as_fast_as_can_be(layers, ends, data):
    stages = data.draw(st.integers(1, layers))
    each = st.lists(st.floats(0.01, 10), min_size=layers, max_size=layers)
    layer_s = data.draw(st.lists(each, min_size=stages, max_size=stages))
    most = data.draw(st.none() | st.lists(st.integers(1, layers), min_size=stages, max_size=stages))
    found = uneven_split(layer_s, *ends, most or ())
    allowed = [
        counts
        for counts in splits(layers, stages)
        if most is None or all(count <= cap for count, cap in zip(counts, most, strict=True))
    ]
    if not allowed:
        assert found is None
        return
    assert found in allowed
    best = min(slowest(counts, layer_s, *ends) for counts in allowed)
    assert slowest(found, layer_s, *ends) == pytest.approx(best)


@given(layers=st.integers(4, 40), heavy=st.floats(0, 3))
def test_stages_alike_are_as_good_as_the_split_of_a_uniform_cluster(layers, heavy):
    equal = [1.0] * layers
    found = uneven_split([equal] * 4, 0.0, heavy)
    assert slowest(found, [equal] * 4, 0.0, heavy) == pytest.approx(
        slowest(balanced_split(equal, 4, 0.0, heavy), [equal] * 4, 0.0, heavy)
    )


def test_a_stage_of_twice_the_speed_has_twice_the_layers():
    assert uneven_split([[2.0] * 12, [1.0] * 12]) == (4, 8)
    assert uneven_split([[2.0] * 12, [1.0] * 12], most=(12, 5)) == (7, 5)


def test_a_slow_stage_gets_the_light_layer():
    """Filling from the front would leave it the heavy one."""
    assert uneven_split([[5.0, 1.0, 9.0], [50.0, 10.0, 90.0], [5.0, 1.0, 9.0]]) == (1, 1, 1)
