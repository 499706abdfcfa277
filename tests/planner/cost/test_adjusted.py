"""What runs taught about a cluster: every factor moves what it says and nothing else, and none moves nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from meshwright.clusters.adjustment import Adjustment, LinkScale
from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.link_costs import LinkCost, measured_costs
from meshwright.clusters.paths import Path as LinkPath
from meshwright.clusters.save import save_cluster
from meshwright.clusters.schema import Cluster
from meshwright.errors import InputError
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.adjusted import path as adjusted_path
from meshwright.planner.cost.bound import lower_bound_s
from meshwright.planner.cost.communication import point_to_point_s
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price, step_s
from meshwright.planner.families import architecture
from meshwright.planner.families.load import load_model
from meshwright.planner.frameworks.framework import framework
from meshwright.planner.job import Job

CLUSTER = load_cluster("dgx-h100:2")
MODEL = architecture(load_model("llama-3.1-8b"))
MESHES = (Mesh(dp=16), Mesh(pp=4, dp=2, tp=2), Mesh(pp=2, tp=8))


def adjusted(**factors: Any) -> Cluster:
    made = Adjustment(source="a test", date="2026-11-22", **factors)
    return CLUSTER.model_copy(update={"adjustment": made})


def setting(cluster: Cluster, name: str = "meshwright") -> Setting:
    return Setting(MODEL, cluster, Job(seq_len=2048, global_batch=64), framework=framework(name))


def configuration(mesh: Mesh) -> Configuration:
    return Configuration(
        mesh=mesh, stage_layers=(32 // mesh.pp,) * mesh.pp, microbatch=1, microbatches=64 // mesh.dp,
        recompute=("none",) * mesh.pp, zero=1, sp=mesh.tp > 1,
    )  # fmt: skip


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_an_adjustment_at_its_defaults_changes_no_price(mesh: Mesh) -> None:
    here = configuration(mesh)
    assert price(setting(adjusted()), here) == price(setting(CLUSTER), here)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_compute_at_half_the_rate_takes_twice_the_compute(mesh: Mesh) -> None:
    here = configuration(mesh)
    before, after = (setting(each).costs(here) for each in (CLUSTER, adjusted(compute=0.5)))
    for one, other in zip((*before.layers, before.head), (*after.layers, after.head), strict=True):
        assert other.compute.forward_s == 2 * one.compute.forward_s
        assert other.compute.backward_s == 2 * one.compute.backward_s
        assert other.exchange == one.exchange
        assert dataclasses.replace(other, compute=one.compute, selective_s=one.selective_s) == one


def test_seconds_of_a_layer_and_of_a_step_are_added_as_often_as_they_come() -> None:
    """Without a pipeline, replicas or links the step is the sum: 32 layers in each of 64 microbatches."""
    alone = dataclasses.replace(configuration(Mesh(dp=1)), zero=0)
    cluster = CLUSTER.node_groups[0].model_copy(update={"nodes": 1, "devices_per_node": 1})

    def one(**factors: Any) -> Setting:
        return setting(adjusted(**factors).model_copy(update={"node_groups": (cluster,)}))

    plain = step_s(one(), alone)
    assert step_s(one(layer_s=1e-3), alone) - plain == pytest.approx(64 * 32 * 1e-3, rel=1e-9)
    assert step_s(one(step_s=0.25), alone) - plain == pytest.approx(0.25, rel=1e-9)
    forward_s, backward_s = (sum(each) for each in _split(one(layer_s=1e-3), alone, one()))
    assert backward_s == pytest.approx(2 * forward_s)


def _split(after: Setting, here: Configuration, before: Setting) -> tuple[list[float], list[float]]:
    pairs = list(zip(after.costs(here).layers, before.costs(here).layers, strict=True))
    forwards = [new.compute.forward_s - old.compute.forward_s for new, old in pairs]
    return forwards, [new.compute.backward_s - old.compute.backward_s for new, old in pairs]


@pytest.mark.parametrize("kind", ["fabric", "network"])
def test_scales_of_links_meet_their_own_class_alone(kind: str) -> None:
    scaled = setting(adjusted(**{kind: LinkScale(latency=3.0, bandwidth=0.5)}))
    before, after = setting(CLUSTER).group(1, 16), scaled.group(1, 16)
    for part, mine in (("inner", "fabric"), ("outer", "network")):
        old, new = getattr(before, part), getattr(after, part)
        rate, late = (0.5, 3.0) if kind == mine else (1.0, 1.0)
        assert new.bandwidth_bytes_per_s == rate * old.bandwidth_bytes_per_s
        assert new.latency_s == late * old.latency_s
    hop = setting(CLUSTER).borders(8, 2)[0], scaled.borders(8, 2)[0]
    assert hop[1].bandwidth_bytes_per_s == hop[0].bandwidth_bytes_per_s * (0.5 if kind == "network" else 1)


def test_overlap_is_of_the_compute_that_is_left_beside_a_collective() -> None:
    plain = setting(CLUSTER).execution.steal
    assert setting(adjusted(overlap=0.5)).execution.steal == pytest.approx(1 - (1 - plain) / 2)
    assert setting(adjusted(overlap=10.0)).execution.steal == 0.0


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_the_lower_bound_stays_below_the_price(mesh: Mesh) -> None:
    learnt = adjusted(compute=0.7, layer_s=2e-4, step_s=0.1, network=LinkScale(bandwidth=0.3), overlap=0.8)
    here = configuration(mesh)
    found = setting(learnt)
    assert lower_bound_s(found, here) <= price(found, here).step_time_s
    assert price(found, here).step_time_s > price(setting(CLUSTER), here).step_time_s


def test_runs_of_another_framework_say_nothing_and_the_origin_is_told() -> None:
    learnt, here = adjusted(compute=0.5), configuration(Mesh(dp=16))
    other = "megatron-core"
    assert price(setting(learnt, other), here) == price(setting(CLUSTER, other), here)
    assert price(setting(learnt), here).origin in ("calibrated", "analytical")
    found = setting(_measured(CLUSTER)), setting(_measured(learnt))
    assert [price(each, here).origin for each in found] == ["measured", "calibrated"]
    before, after = (price(each, here) for each in found)
    width = [each.step_time_interval_s[1] / each.step_time_s for each in (before, after)]
    assert width[0] == pytest.approx(width[1])


def _measured(cluster: Cluster) -> Cluster:
    group = cluster.node_groups[0]
    calibration = group.device.calibration.model_copy(update={"origin": "measured"})
    device = group.device.model_copy(update={"calibration": calibration})
    return cluster.model_copy(update={"node_groups": (group.model_copy(update={"device": device}),)})


def test_a_file_holds_what_moved_and_nothing_else(tmp_path: Path) -> None:
    learnt = adjusted(compute=0.9, layer_s=2e-6, network=LinkScale(latency=2.0))
    assert learnt.adjustment is not None
    assert learnt.adjustment.moved == {"compute": 0.9, "layer": 2e-6, "network.latency": 2.0}
    path = tmp_path / "cluster.yaml"
    save_cluster(learnt, path)
    assert load_cluster(str(path)) == learnt
    assert "adjustment" not in CLUSTER.model_dump(mode="json")
    text = path.read_text()
    assert "overlap" not in text
    path.write_text(text.replace("layer: 2 us", "layers: 2 us").replace("compute: 0.9", "compute: 0"))
    with pytest.raises(InputError) as error:
        load_cluster(str(path))
    fields = sorted(problem.field for problem in error.value.problems)
    assert fields == ["adjustment.compute", "adjustment.layers"]


def test_overlap_counts_wherever_compute_is_beside_a_collective() -> None:
    """In the data stream and, for experts' parts, inside a layer."""
    seen = setting(adjusted(overlap=0.8))
    assert seen.rates.steal == seen.execution.steal == pytest.approx(1 - 0.8 * (1 - setting(CLUSTER).execution.steal))


def test_latency_of_links_that_were_measured_is_what_does_not_depend_on_bandwidth() -> None:
    costs = [{"operation": "send", "members": 2, "factor": 1.0, "fixed": [{"bytes": 1024, "seconds": 1e-3}]}]
    known = LinkPath(1e9, 1e-6, "nvlink", costs=measured_costs([LinkCost.model_validate(each) for each in costs]))
    by = Adjustment(source="", date="2026-11-22", fabric=LinkScale(latency=2, bandwidth=0.5))
    assert point_to_point_s(adjusted_path(known, by), 1e6) == pytest.approx(2 * 1e-3 + 1e6 / 0.5e9)
