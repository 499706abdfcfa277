"""The interval of a predicted step: narrow where a profile has the model's layers as the plan cuts them, else wide, and
what a plan says of it."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.clusters.adjustment import Adjustment
from meshwright.clusters.local import cpu_cluster
from meshwright.clusters.schema import Cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.interval import MEASURED, WITHOUT_LAYERS, interval_of
from meshwright.planner.cost.measured import sizes_of
from meshwright.planner.cost.setting import Setting
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.pins import parse_pins
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan

MODEL = load_model("byte-llama")
ARCHITECTURE = architecture(MODEL)
JOB = Job(seq_len=256, global_batch=8, precision="fp32")
TIMED: dict[str, Any] = {
    "sizes": sizes_of(ARCHITECTURE.layers[0]), "dtype": "fp32", "seq_len": 256, "microbatch": 1,
    "forward_s": 0.004, "backward_s": 0.006,
}  # fmt: skip


def cluster(*rows: dict[str, Any], kind: str = "cpu", **more: Any) -> Cluster:
    """Two workers that were profiled, with the layers that were timed."""
    data = cpu_cluster(2).model_dump(mode="json", by_alias=True, exclude_none=True) | more
    device = data["node_groups"][0]["device"]
    device["kind"] = kind
    device["calibration"] |= {"origin": "measured", "layers": {"layers": list(rows)}}
    return Cluster.model_validate(data)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (cluster(), WITHOUT_LAYERS),
        (cluster(TIMED), MEASURED),
        (cluster(TIMED | {"seq_len": 4096}), WITHOUT_LAYERS),
        (cluster(TIMED | {"sizes": TIMED["sizes"] | {"ffn.width": 768}}), WITHOUT_LAYERS),
        (cluster(TIMED | {"dtype": "bf16"}), WITHOUT_LAYERS),
        (cluster(TIMED | {"sharding": {"tp": 2}}), WITHOUT_LAYERS),
        (cluster(TIMED | {"microbatch": 4}), WITHOUT_LAYERS),
        (cluster(TIMED | {"microbatch": 4}, TIMED), MEASURED),
        (cluster(adjustment=Adjustment(source="runs", date="2026-11-22", compute=0.5).model_dump()), MEASURED),
        (cluster(kind="cuda"), MEASURED),
    ],
    ids=[
        "no layers",
        "its layers",
        "of another length",
        "of another model",
        "in another format",
        "cut in another way",
        "of another microbatch",
        "of several",
        "runs taught",
        "a GPU",
    ],
)
def test_the_interval_is_narrow_where_layers_or_runs_are_known(measured: Cluster, expected: object) -> None:
    alone = Configuration(mesh=Mesh(dp=2), stage_layers=(len(ARCHITECTURE.layers),), microbatch=1, microbatches=4)
    assert interval_of(Setting(ARCHITECTURE, measured, JOB), alone) == expected


@pytest.mark.parametrize(("rows", "says"), [((), True), ((TIMED,), False)], ids=["without layers", "with layers"])
def test_a_plan_without_measured_layers_says_how_to_measure_them(rows: tuple[dict[str, Any], ...], says: bool) -> None:
    plan = find_plan(Request(model=MODEL, cluster=cluster(*rows), job=JOB, pins=parse_pins(["dp=2", "microbatch=1"])))
    high = WITHOUT_LAYERS.high if says else MEASURED.high
    assert plan.predicted.step_time_interval_s[1] == pytest.approx(high * plan.predicted.step_time_s)
    told = [line for line in plan.why if "profile --model MODEL --seq-len 256 --global-batch 8" in line]
    assert bool(told) is says
