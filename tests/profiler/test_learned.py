"""Learned: the choice between table, regression and curve is right where it is known which is."""

from __future__ import annotations

import random
from math import exp, log, log2, prod, sin

import numpy as np
import pytest

from meshwright.clusters.devices import device_mapping
from meshwright.clusters.schema import Device
from meshwright.clusters.shape_times import ShapeTimes, predictors
from meshwright.clusters.shapes import Operation, Shapes
from meshwright.planner.cost.operations import by_rates
from meshwright.planner.cost.rates import PLAIN, device_rates
from meshwright.profiler.learned import assemble, left_out_error, merge, operation, shapes_mapping
from meshwright.profiler.parts import Found
from meshwright.schema import parse

CPU = device_mapping("cpu-core")
RATES = device_rates(Device.model_validate(CPU), "fp32", PLAIN)


def rows(world, count, noise=0.0, seed=0):
    """A product's points at random sizes of training; its gradients take as long."""
    among = random.Random(seed)
    found = []
    while len(found) < count:
        sizes = tuple(int(exp(among.uniform(log(64), log(4096)))) for _ in range(3))
        seconds = [world(*sizes) * exp(among.gauss(0, noise)) for _ in range(3)]
        found.append((*sizes, *seconds, noise))
    return found


def law(m, n, k):
    return 1e-11 * m**0.6 * n**1.2 * k**0.8 * exp(0.01 * log2(m) * log2(k))


def waves(m, n, k):
    return 2 * m * n * k / 5e10 * exp(0.5 * sin(1.5 * log2(m)))


def curve(m, n, k):
    """Exactly what the device's own figures say."""
    return by_rates(RATES, "matmul", (m, n, k))[0]


def chosen(world, count, noise=0.0, rates=RATES):
    return operation("matmul", rows(world, count, noise), (), rates)


def test_a_noisy_power_law_is_the_regression_s():
    found = chosen(law, 50, noise=0.1)
    assert found["chosen"] == "regression"
    assert found["errors"]["regression"] < found["errors"]["table"] < found["errors"]["curve"]


def test_waves_are_the_table_s():
    found = chosen(waves, 60)
    assert found["chosen"] == "table"
    assert found["errors"]["table"] < found["errors"]["regression"]


def test_where_the_curve_is_right_it_stays():
    found = chosen(curve, 12, noise=0.02)
    assert found["chosen"] == "curve"
    parsed = parse(Operation, found, "file")
    shapes = Shapes(dtype="fp32", peak_flops=1e11, memory_bandwidth_bytes_per_s=1e10, operations=(parsed,))
    assert ShapeTimes(shapes, 1e11, 1e10).seconds("matmul", 512, 512, 512) is None


def test_too_few_points_have_no_regression():
    found = chosen(law, 6)
    assert "regression" not in found
    assert "regression" not in found["errors"]


@pytest.mark.parametrize(("world", "count", "noise"), [(law, 50, 0.1), (waves, 60, 0.0)])
def test_the_choice_holds_on_points_that_nothing_saw(world, count, noise):
    """What was chosen by the folds errs least on new points, too."""
    found = chosen(world, count, noise)
    fresh = rows(world, 100, seed=1)
    errors = {}
    for choice in ("table", "regression"):
        asked = predictors(parse(Operation, {**found, "chosen": choice}, "file"))[0]
        errors[choice] = np.mean([abs(log(asked(row[:3]) / row[3])) for row in fresh])
    assert min(errors, key=errors.get) == found["chosen"]


def test_the_left_out_error_is_of_points_that_the_fit_did_not_see():
    """A fit that only remembers is wrong by all of what it has to guess."""
    sizes, works = np.arange(1.0, 17.0)[:, None], np.ones((16, 2))
    seconds, spread = np.full((16, 1), exp(1.0)), np.zeros(16)

    def remembers(seen, *_):
        known = set(seen[:, 0])
        return lambda at, _: np.array([exp(1.0) if size in known else 1.0 for size in at[:, 0]])

    assert left_out_error(sizes, works, seconds, spread, remembers) == pytest.approx(1.0)


def test_workers_are_merged_by_medians_and_the_widest_spread():
    one, two, three = ([(64, 64, 64, 1e-5 * each, 2e-5 * each, 3e-5 * each, 0.01 * each)] for each in (1, 2, 4))
    other = [(128, 64, 64, 1e-4, 1e-4, 1e-4, 0.0)]
    assert merge("matmul", [*one, *two, *three, *other]) == [
        (64, 64, 64, 2e-5, 4e-5, 6e-5, 0.04),
        (128, 64, 64, 1e-4, 1e-4, 1e-4, 0.0),
    ]


def test_assemble_writes_shapes_into_its_own_group_only():
    cluster = {"node_groups": [{"device": {**CPU, "calibration": dict(CPU["calibration"])}} for _ in range(2)]}
    result = {"rows": {"matmul": [list(row) for row in rows(law, 20)]}, "dtype": "fp32", "caches_bytes": [2**21]}
    assemble(cluster, Found([{"kernels": result}, {}], [[0], [1]]))
    first, second = (group["device"]["calibration"] for group in cluster["node_groups"])
    assert "shapes" not in second
    parsed = parse(Shapes, first["shapes"], "file")
    assert parsed.peak_flops == Device.model_validate(CPU).peak_flops["fp32"]
    assert all(prod(row[:3]) for row in parsed.operations[0].points)


def test_few_points_make_no_shapes():
    assert shapes_mapping([{"matmul": [list(row) for row in rows(law, 3)]}], CPU, "fp32", []) is None
