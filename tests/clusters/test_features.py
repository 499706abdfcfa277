"""The regression: what it can say it finds again; what it cannot keeps to what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from meshwright.clusters.features import features, law, ridge
from meshwright.clusters.interpolation import base_of, based
from meshwright.clusters.shapes import feature_count, work

from .shape_worlds import AXIS, bumpy, known, lattice, power_law


def test_a_power_law_is_found_again_between_and_beside_its_points():
    x = lattice([AXIS[::3]] * 3)
    works, seconds, _ = known(power_law, x)
    found = law(x, works, seconds, ())
    at = lattice([(100, 350, 1500), (90, 900, 2500), (70, 200, 3100)])
    where, right, _ = known(power_law, at)
    assert found.at(at, where) == pytest.approx(right, rel=0.01)


def test_a_bend_at_a_threshold_is_found_only_where_it_may_bend():
    x = lattice([AXIS[::2]] * 3)
    works = np.array([work("matmul", row) for row in x])
    cache = 2.0**20
    seconds = 1e-9 * x.prod(axis=1) ** 0.6 * np.maximum(1.0, works[:, 1] / cache) ** 0.3
    errors = [np.mean(np.abs(np.log(law(x, works, seconds, each).at(x, works) / seconds))) for each in ((cache,), ())]
    assert errors[0] < 0.02
    assert errors[1] > 4 * errors[0]


def test_the_count_of_features_is_the_schema_s():
    x = lattice([(64, 128), (256, 512), (32, 64), (2, 4)])
    works = np.array([work("grouped", row) for row in x])
    base = base_of(works, works.sum(axis=1))
    assert features(x, works, base, (1e5, 1e6)).shape == (len(x), feature_count(4, 2))


def test_far_away_it_keeps_to_the_rates_that_were_measured():
    """Squares of logarithms alone would take it anywhere."""
    x = lattice([AXIS[::4]] * 3)
    works, seconds, _ = known(bumpy, x)
    found = law(x, works, seconds, ())
    ratios = seconds / based(found.bounds.base, works)
    at = np.array([[1e6, 1e6, 1e6], [1e5, 64.0, 64.0], [1.0, 1.0, 1.0]])
    where = np.array([work("matmul", row) for row in at])
    over = found.at(at, where) / based(found.bounds.base, where)
    assert (over <= ratios.max() * (1 + 1e-9)).all()
    assert (over >= ratios.min() * (1 - 1e-9)).all()


def test_ridge_without_noise_is_least_squares():
    among = np.random.default_rng(0)
    columns = np.column_stack([np.ones(60), among.normal(size=(60, 4))])
    truth = np.array([3.0, 1.0, -2.0, 0.5, 0.0])
    assert ridge(columns, columns @ truth) == pytest.approx(truth, abs=1e-4)
    oracle = np.linalg.lstsq(columns, columns @ truth, rcond=None)[0]
    assert ridge(columns, columns @ truth) == pytest.approx(oracle, abs=1e-4)


def test_a_column_that_says_nothing_gets_nothing():
    columns = np.column_stack([np.ones(10), np.arange(10.0), np.full(10, 7.0)])
    assert ridge(columns, np.arange(10.0))[2] == 0
