"""Interpolation: through its points, in the order that they have, never far from what was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.clusters.interpolation import base_of, based, best_reach, krige, surface
from meshwright.clusters.shapes import work

from .shape_worlds import AXIS, bumpy, known, lattice, saturating

SIZES = st.lists(st.tuples(*[st.sampled_from(AXIS)] * 3), min_size=4, max_size=14, unique=True)
SOMEWHERE = st.tuples(*[st.floats(1, 1e6)] * 3)


def made(sizes, world=saturating, spread=0.0):
    x = np.array(sizes, dtype=float)
    works, seconds, _ = known(world, x)
    return surface(x, works, seconds, np.full(len(x), spread)), x, works, seconds


def asked(found, *sizes):
    return float(found.at(np.array([sizes], dtype=float), np.array([work("matmul", sizes)]))[0])


@settings(max_examples=15, deadline=None)
@given(sizes=SIZES, noise=st.lists(st.floats(0.7, 1.4), min_size=14, max_size=14))
def test_it_passes_through_what_was_measured_whatever_that_was(sizes, noise):
    x = np.array(sizes, dtype=float)
    works, seconds, spread = known(saturating, x)
    seconds = seconds * np.array(noise[: len(x)])
    found = surface(x, works, seconds, spread)
    assert found.at(x, works) == pytest.approx(seconds, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, at=SOMEWHERE)
def test_never_faster_than_a_smaller_point_nor_slower_than_a_larger_one(sizes, at):
    found, x, _, seconds = made(sizes)
    here = asked(found, *at)
    below, above = (x <= np.array(at)).all(axis=1), (x >= np.array(at)).all(axis=1)
    assert here >= seconds[below].max(initial=0) * (1 - 1e-9)
    assert here <= seconds[above].min(initial=np.inf) * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, at=SOMEWHERE)
def test_beyond_the_points_it_keeps_to_the_rates_that_were_measured(sizes, at):
    """Over the base nothing is slower or faster than a measured point was: the roofline bounds both ends."""
    found, x, works, seconds = made(sizes, bumpy)
    bounds, where = found.bounds, np.array([work("matmul", at)])
    ratios = seconds / based(bounds.base, works)
    inside = (x <= np.array(at)).all(axis=1).any() and (x >= np.array(at)).all(axis=1).any()
    floor, roof = float(based(bounds.base, where)[0]), (where[0] / (works / seconds[:, None]).max(axis=0)).max()
    if not inside:  # between points, the order of these counts more
        lifted = max(ratios.max() * floor, roof, seconds[(x <= np.array(at)).all(axis=1)].max(initial=0))
        lowered = min(ratios.min() * floor, seconds[(x >= np.array(at)).all(axis=1)].min(initial=np.inf))
        assert lowered * (1 - 1e-9) <= asked(found, *at) <= lifted * (1 + 1e-9)


def test_far_beyond_a_product_takes_its_operations_at_a_measured_rate():
    found, _, _, _ = made([tuple(row) for row in lattice([(64, 512, 4096)] * 3)])
    sizes = (65536, 65536, 65536)
    rate = 2.0 * np.prod(sizes) / asked(found, *sizes)
    assert 5e10 < rate < 6e10  # the world's is 6e10 in the limit


def test_the_base_is_found_again():
    x = lattice([(64, 256, 1024)] * 3)
    works = np.array([work("matmul", row) for row in x])
    truth = np.array([5e-6, 3e-11, 2e-10])
    assert base_of(works, based(truth, works)) == pytest.approx(truth, rel=1e-6)


@given(st.permutations(range(27)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_points_says_nothing(order):
    x = lattice([(64, 384, 2048)] * 3)
    works, seconds, spread = known(bumpy, x)
    one, other = surface(x, works, seconds, spread), surface(x[order], works[order], seconds[order], spread)
    at = lattice([(100, 700, 3000)] * 3)
    where = np.array([work("matmul", row) for row in at])
    assert one.at(at, where) == pytest.approx(other.at(at, where), rel=1e-6)


def test_left_out_is_what_leaving_out_gives():
    """The closed form, beside every point really left out and predicted by the others."""
    x = np.log2(lattice([(64, 256, 1024), (64, 512), (128, 1024)]))
    values = np.sin(x).sum(axis=1)
    spread, reach = np.full(len(x), 0.01), np.array([2.0, 4.0, 2.0])
    whole = krige(x, values, spread, reach)
    for number, error in enumerate(whole.left_out()):
        others = np.arange(len(x)) != number
        # the closed form keeps the variance of all values, which scales the spread
        scaled = spread[others] * np.std(values[others]) / np.std(values)
        alone = krige(x[others], values[others], scaled, reach)
        assert values[number] - alone.at(x[[number]])[0] == pytest.approx(error, rel=1e-4, abs=1e-7)


def test_doubt_is_nothing_at_a_point_and_whole_far_from_all():
    x = np.log2(lattice([(64, 256, 1024)] * 3))
    found = krige(x, np.sin(x).sum(axis=1), np.zeros(len(x)), np.full(3, 1.0))
    assert found.doubt(x) == pytest.approx(np.zeros(len(x)), abs=1e-3)
    assert found.doubt(np.full((1, 3), 60.0)) == pytest.approx([1.0])


def test_a_size_that_changes_nothing_reaches_furthest():
    x = np.log2(lattice([AXIS[::2]] * 2))
    values = np.sin(1.5 * x[:, 0])
    reach = best_reach(x, values, np.zeros(len(x)))
    assert reach[1] == 16.0 > reach[0]


def test_noise_that_was_told_is_not_followed():
    """Where points are said to be unsure, the truth is found better than by believing each."""
    among = np.random.default_rng(0)
    x = lattice([AXIS[::4]] * 3)
    works, truth, _ = known(saturating, x)
    noisy = truth * np.exp(0.1 * among.standard_normal(len(x)))
    told, believed = (surface(x, works, noisy, np.full(len(x), each)) for each in (0.1, 0.0))
    at = x * 1.2
    where, right, _ = known(saturating, at)
    errors = [np.mean(np.abs(np.log(each.at(at, where) / right))) for each in (told, believed)]
    assert errors[0] < 0.7 * errors[1]
