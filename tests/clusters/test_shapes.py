"""Shapes in a cluster file: read back equal, refused by field and rule, asked for seconds."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from meshwright.clusters import load_cluster, save_cluster
from meshwright.clusters.devices import device_mapping
from meshwright.clusters.schema import Calibration, Cluster
from meshwright.clusters.shape_times import ShapeTimes, shape_times
from meshwright.clusters.shapes import KINDS, Operation, Overlap, Shapes, feature_count, work
from meshwright.errors import InputError
from meshwright.schema import parse

ROWS = [
    [m, n, 64, 1e-11 * m * n * 64, 1.1e-11 * m * n * 64, 1.2e-11 * m * n * 64, 0.01]
    for m in (64, 512)
    for n in (64, 256)
]
MATMUL = {
    "name": "matmul",
    "sizes": ["m", "n", "k"],
    "parts": ["forward", "input", "weight"],
    "chosen": "table",
    "errors": {"table": 0.03, "regression": 0.05, "curve": 0.2},
    "reach": [4, 4, 4],
    "points": ROWS,
}
SHAPES = {"dtype": "fp32", "peak_flops": "100 GFLOP/s", "memory_bandwidth": "10 GB/s", "operations": [MATMUL]}


def shapes(**changes) -> Shapes:
    return parse(Shapes, {**SHAPES, "operations": [{**MATMUL, **changes}]}, "file")


def cluster_mapping(**more):
    cpu = device_mapping("cpu-core")
    return {
        "name": "one",
        "node_groups": [
            {
                "name": "here",
                "nodes": 1,
                "devices_per_node": 2,
                "device": {**cpu, "calibration": {**cpu["calibration"], **more}},
                "fabric": {"kind": "shared-memory", "bandwidth": "2 GB/s", "latency": "50 us"},
                "host": {"memory": "16 GB", "cores": 2, "device_link": "10 GB/s"},
            }
        ],
    }


def test_a_file_with_shapes_reads_back_equal(tmp_path: Path):
    cluster = parse(Cluster, cluster_mapping(shapes=SHAPES, overlap={"compute": 1.5, "collective": 1.2}), "here")
    save_cluster(cluster, tmp_path / "one.yaml")
    assert load_cluster(str(tmp_path / "one.yaml")) == cluster
    written = yaml.safe_load((tmp_path / "one.yaml").read_text())["node_groups"][0]["device"]["calibration"]["shapes"]
    assert written["operations"][0]["points"] == ROWS
    assert (written["peak_flops"], written["memory_bandwidth"]) == ("100 GFLOP/s", "10 GB/s")


def test_what_is_not_there_is_not_written():
    """Plans keep the cluster: those of clusters without shapes stay the same files."""
    cluster = parse(Cluster, cluster_mapping(), "here")
    assert {"shapes", "overlap"}.isdisjoint(cluster.model_dump()["node_groups"][0]["device"]["calibration"])
    assert cluster.node_groups[0].device.calibration.shapes is None


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"sizes": ["m", "k", "n"]}, "operations[0]", "sizes of matmul must be [m, n, k]"),
        ({"parts": ["forward"]}, "operations[0]", "parts of matmul must be [forward, input, weight]"),
        ({"reach": [4, 4]}, "operations[0]", "reach must have one number for each of [m, n, k]"),
        ({"points": [*ROWS, [1, 2, 3]]}, "operations[0]", "points[4] must be [m, n, k, forward s, input s, weight s"),
        ({"points": [*ROWS, [0, *ROWS[0][1:]]]}, "operations[0].points", "row 4: sizes and seconds must be above 0"),
        ({"points": ROWS[:1]}, "operations[0].points", "3"),
        ({"chosen": "regression"}, "operations[0]", "chosen is regression, but there is none"),
        ({"chosen": "tabel"}, "operations[0].chosen", "table"),
        ({"name": "conv"}, "operations[0].name", "matmul"),
        ({"regression": [{"part": "forward", "coefficients": [1]}]}, "operations[0]", "one entry for each of"),
        ({"regression": [{"part": p, "coefficients": [1]} for p in MATMUL["parts"]]}, "operations[0]", "needs 11"),
        ({"spread": 1}, "operations[0].spread", "unknown field"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_rule(changes, field, rule):
    with pytest.raises(InputError) as caught:
        shapes(**changes)
    assert [problem.field for problem in caught.value.problems] == [field]
    assert rule in str(caught.value)


def test_an_operation_stands_once():
    with pytest.raises(InputError, match="matmul stands twice"):
        parse(Shapes, {**SHAPES, "operations": [MATMUL, copy.deepcopy(MATMUL)]}, "file")


def test_every_kind_has_work_that_grows_with_each_size():
    for name, kind in KINDS.items():
        small = tuple(8.0 for _ in kind.sizes)
        for place in range(len(small)):
            larger = tuple(16.0 if number == place else size for number, size in enumerate(small))
            assert sum(work(name, larger)) > sum(work(name, small)), name


def test_times_are_those_of_the_points_by_part_and_kept():
    found = ShapeTimes(shapes(), 1e11, 1e10)
    assert found.seconds("matmul", 512, 64, 64) == pytest.approx(ROWS[2][3:6], rel=1e-3)
    assert found.seconds("matmul", 512.0, 64.0, 64.0) is found.seconds("matmul", 512, 64, 64)
    assert found.seconds("norm", 512, 64) is None


def test_what_the_curve_predicts_best_has_no_times():
    assert ShapeTimes(shapes(chosen="curve"), 1e11, 1e10).seconds("matmul", 512, 64, 64) is None


def test_a_device_that_is_made_faster_takes_less():
    """What-if: the same file with twice the peak."""
    one, two = (ShapeTimes(shapes(), peak, 1e10).seconds("matmul", 100, 100, 100) for peak in (1e11, 2e11))
    assert [a / b for a, b in zip(one, two, strict=True)] == pytest.approx([2, 2, 2])


def test_a_regression_is_read_from_its_coefficients():
    """Logarithm of seconds = log(1e-11) + ln 2 x (log2 m + log2 n + log2 k): the third feature on."""
    import math

    coefficients = [math.log(1e-11), 0.0, *[math.log(2)] * 3, *[0.0] * 6]
    assert len(coefficients) == feature_count(3, 0)
    fits = [{"part": part, "coefficients": coefficients} for part in MATMUL["parts"]]
    found = ShapeTimes(shapes(chosen="regression", regression=fits), 1e11, 1e10)
    assert found.seconds("matmul", 100, 200, 64)[0] == pytest.approx(1e-11 * 100 * 200 * 64, rel=1e-6)


def test_equal_shapes_share_their_answers():
    assert shape_times(shapes(), 1e11, 1e10) is shape_times(shapes(), 1e11, 1e10)


def test_steal_is_the_share_that_compute_loses():
    assert Overlap(compute=1.25, collective=1.0).steal == pytest.approx(0.2)
    assert Overlap(compute=1.0, collective=2.0).steal == 0


def test_the_schema_names_the_new_fields():
    assert {"shapes", "overlap"} <= set(Calibration.model_fields)
    assert Operation.model_fields["regression"].default == ()
