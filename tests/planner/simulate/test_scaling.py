"""Scaling curves: what stays, what follows, and the laws that hold for any cost model."""

from __future__ import annotations

import json

import pytest

from meshwright.errors import InputError
from meshwright.planner.plan import Plan
from meshwright.planner.simulate.scaling import default_counts, parse_scaling, scaling
from meshwright.planner.simulate.scenario import Scenario
from meshwright.planner.simulate.simulation import simulate
from meshwright.planner.simulate.tables import table_of_scaling


def test_strong_keeps_the_batch_and_weak_the_batch_of_a_device(plan: Plan) -> None:
    for kind, batches in (("strong", [32, 32, 32]), ("weak", [16, 32, 64])):
        found = scaling(plan, f"{kind}=4,8,16")
        runs = [point.simulation for point in found.points]
        assert [run.scenario.job.global_batch for run in runs if run] == batches
        assert [run.scenario.configuration.mesh.dp for run in runs if run] == [1, 2, 4]
        assert {(run.scenario.configuration.mesh.pp, run.scenario.configuration.mesh.tp) for run in runs if run} == {
            (2, 2)
        }


def test_the_plans_own_number_of_devices_is_the_plan(plan: Plan) -> None:
    for kind in ("strong", "weak"):
        same = scaling(plan, f"{kind}=8").points[0].simulation
        assert same is not None
        assert same.prediction == plan.predicted


def test_efficiency_is_one_at_the_base_and_never_grows_in_strong_scaling(plan: Plan) -> None:
    found = scaling(plan, "strong")
    shares = [found.efficiency(point) for point in found.points]
    assert [point.devices for point in found.points] == [4, 8, 16, 32, 64]
    assert shares[0] == 1.0
    known = [share for share in shares if share is not None]
    assert known == sorted(known, reverse=True)
    first, last = found.points[0].simulation, found.points[-1].simulation
    assert first is not None
    assert last is not None
    speedup = first.step_time_s / last.step_time_s
    assert found.efficiency(found.points[-1]) == pytest.approx(speedup / 16)


def test_weak_scaling_loses_only_what_communication_takes(plan: Plan) -> None:
    """With a network and a fabric without limits every point trains as fast a device."""
    free = ["network=1e18", "cluster.network.latency=0", "cluster.fabric.bandwidth=1e18", "cluster.fabric.latency=0"]
    found = scaling(plan, "weak=8,16,32", [*free, "zero=0"])
    assert [found.efficiency(point) for point in found.points] == pytest.approx([1.0] * 3, rel=1e-6)


def test_illegal_points_keep_their_reason(plan: Plan) -> None:
    found = scaling(plan, "strong=6,8,256")
    assert [point.simulation is None for point in found.points] == [True, False, True]
    assert "must make whole nodes" in found.points[0].reason
    assert "job.global_batch" in found.points[2].reason
    assert found.base.devices == 8
    assert found.efficiency(found.points[0]) is None
    data = json.loads(json.dumps(found.to_json()))
    assert [point["efficiency"] for point in data["points"]] == [None, 1.0, None]
    rows, head = table_of_scaling(found)
    assert {len(row) for row in rows} == {len(head)}
    odd = scaling(plan, "weak=1,8", ["job.global_batch=4"])
    assert "makes no whole batch" in odd.points[0].reason


def test_what_does_not_fit_is_not_the_base(plan: Plan) -> None:
    roomy = [point.simulation for point in scaling(plan, "strong=4,64").points]
    more, less = (max(one.prediction.peak_memory_bytes) for one in roomy if one)
    found = scaling(plan, "strong=4,64", [f"cluster.device.memory={(more + less) // 2}"])
    assert [bool(point.reason) for point in found.points] == [True, False]
    assert found.base.devices == 64
    assert "does not fit" in [row[-1] for row in table_of_scaling(found)[0]]


def test_counts_start_where_the_model_part_fills_nodes(plan: Plan) -> None:
    three = simulate(plan, ["mesh.pp=3", "mesh.tp=2", "mesh.dp=2", "devices=12", "stage_layers=[3,3,2]"])
    assert default_counts(three.scenario)[0] == 12
    assert default_counts(Scenario.of(plan))[0] == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stong", "must be strong or weak; did you mean 'strong'"),
        ("", "must be strong or weak"),
        ("weak=", "is not a number of devices"),
        ("weak=8,x,-1", "'x': is not a number of devices"),
        ("strong=" + ",".join(map(str, range(1, 19))), "at most 16"),
    ],
)
def test_mistakes(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_scaling(text)
    assert told in str(caught.value)


def test_nothing_legal_is_an_error(plan: Plan) -> None:
    with pytest.raises(InputError, match="must make whole nodes"):
        scaling(plan, "strong=3,7")
