"""The search against pricing everything, and what it says when it must refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.errors import InfeasibleError, InputError
from meshwright.planner.cost.footprint import peaks
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price
from meshwright.planner.explain import describe
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import is_legal, problems, runtime_problems
from meshwright.planner.pins import Pins, parse_pins
from meshwright.planner.plan import load_plan
from meshwright.planner.search.bound import Balancer
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.search.space import candidates

from .small import requests_of


def ask(model="llama-3.1-8b", cluster="dgx-h100:2", seq_len=8192, global_batch=64, pins=(), **changes) -> Request:
    job = Job(seq_len=seq_len, global_batch=global_batch, precision=changes.pop("precision", "bf16"))
    return Request(model=load_model(model), cluster=load_cluster(cluster), job=job, pins=parse_pins(pins), **changes)


def setting_of(request: Request) -> Setting:
    return Setting(architecture(request.model), request.cluster, request.job)


TINY = [
    ask("llama-3.2-1b", "dgx-a100-40g:1", 2048, 16, gap=0.0),
    ask("gpt2-xl", "rtx4090-ethernet:1", 1024, 8, gap=0.0),
    ask("olmoe-1b-7b", "dgx-a100-80g:1", 2048, 16, gap=0.0),
]


@pytest.mark.parametrize("request_", TINY, ids=lambda request: request.model.name)
def test_no_configuration_of_the_space_beats_the_plan(request_):
    setting = setting_of(request_)
    balancer, fitting = Balancer(setting), []
    for configuration in candidates(setting, Pins()):
        if is_legal(setting, configuration):
            predicted = price(setting, balancer.balanced(configuration))
            if predicted.fits:
                fitting.append(predicted.step_time_s)
    plan = find_plan(request_)
    assert plan.predicted.step_time_s <= min(fitting) * (1 + 1e-12)
    assert plan.proof.lower_bound_s <= plan.predicted.step_time_s
    assert plan.proof.gap == pytest.approx(0, abs=1e-9)


REQUESTS = [
    ask(),
    ask("llama-3.1-70b", "dgx-h100:4", 8192, 128),
    ask("gpt-3-175b", "dgx-a100-80g:32", 2048, 1536, ["tp=8", "pp=8"]),
    ask("mixtral-8x7b", "dgx-h100:4", 4096, 64),
    ask("qwen2.5-7b", "two-site", 4096, 1024),
    ask("llama-3.1-8b", "dgx-h100:4", 131072, 8),
    ask("byte-llama", "rtx4090-ethernet:1", 256, 32, ["pp=4"]),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: f"{request.model.name}-{request.job.seq_len}")
def test_a_plan_is_legal_fits_and_holds_every_layer(request_):
    plan, setting = find_plan(request_), setting_of(request_)
    configuration = plan.configuration
    assert problems(setting, configuration) == []
    assert plan.predicted.fits
    assert all(peak.fits for peak in peaks(setting, configuration))
    assert configuration.mesh.world == request_.cluster.num_devices
    assert [i for v in range(len(plan.stage_layers)) for i in configuration.layer_range(v)] == list(
        range(len(setting.architecture.layers))
    )
    for name, value in request_.pins.given().items():
        assert getattr(configuration.mesh, name, getattr(configuration, name, None)) == value
    assert len({tuple(dict(other.mesh).items()) for other in plan.runners_up}) == len(plan.runners_up)
    assert all(other.slower_by >= 0 for other in plan.runners_up)
    assert len(plan.why) >= 4


def test_the_same_request_gives_the_same_bytes(tmp_path):
    files = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    for path in files:
        find_plan(ask("mixtral-8x7b", "dgx-h100:2", 4096, 64)).save(path)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert load_plan(files[0]).configuration == find_plan(ask("mixtral-8x7b", "dgx-h100:2", 4096, 64)).configuration


def test_with_everything_pinned_one_configuration_is_priced():
    pins = [
        "tp=8",
        "pp=2",
        "dp=1",
        "cp=1",
        "vpp=1",
        "zero=0",
        "sp=true",
        "microbatch=1",
        "recompute=none",
        "schedule=1f1b",
    ]
    plan = find_plan(ask("llama-3.1-8b", pins=pins))
    assert plan.proof.candidates == 1
    assert plan.runners_up == ()


def test_ranks_may_differ_where_memory_binds():
    """1F1B's first ranks hold most: without recomputation an even split does not fit, an uneven one does better."""
    pins = ["tp=4", "pp=8", "schedule=1f1b", "microbatch=1", "zero=1"]
    request = ask("llama-3.1-70b", "dgx-h100:8", 8192, 512, pins)
    uniform = find_plan(ask("llama-3.1-70b", "dgx-h100:8", 8192, 512, [*pins, "recompute=full"]))
    plan = find_plan(request)
    assert plan.predicted.step_time_s < uniform.predicted.step_time_s
    assert len(set(plan.recompute)) > 1 or len(set(plan.stage_layers)) > 1


def test_runnable_plans_are_what_the_runtime_can_run():
    plan = find_plan(ask("llama-3.1-8b", seq_len=32768, runnable=True))
    assert runtime_problems(setting_of(ask("llama-3.1-8b", seq_len=32768)), plan.configuration) == []
    assert plan.why[-1] == "The built-in runtime can run it."


def test_fewer_devices_can_be_cheaper():
    by_time = find_plan(ask("llama-3.2-1b", "dgx-h100:8", 2048, 64))
    by_cost = find_plan(ask("llama-3.2-1b", "dgx-h100:8", 2048, 64, objective="cost"))
    used = [plan.configuration.mesh.world for plan in (by_time, by_cost)]
    dollars = [world * plan.predicted.step_time_s for world, plan in zip(used, (by_time, by_cost), strict=True)]
    assert used[1] < used[0] == 64
    assert dollars[1] < dollars[0]


def test_a_request_without_prices_cannot_ask_for_cost():
    cluster = load_cluster("dgx-h100:1")
    free = cluster.node_groups[0].model_copy(update={"price_per_device_hour": None})
    request = ask("llama-3.2-1b", objective="cost")
    changed = Request(**{**vars(request), "cluster": cluster.model_copy(update={"node_groups": (free,)})})
    with pytest.raises(InputError, match="price_per_device_hour"):
        find_plan(changed)


def test_what_binds_is_named_with_the_change_that_fits():
    request = ask("llama-3.1-70b", "dgx-h100:8", 8192, 512, ["tp=2", "pp=8", "recompute=none"])
    with pytest.raises(InfeasibleError) as caught:
        find_plan(request)
    assert "stage " in caught.value.binding
    assert " needs " in caught.value.binding
    assert "activations" in caught.value.binding
    name, value = caught.value.change.removeprefix("--pin ").split("=")
    assert (name, value) == ("recompute", "full")
    fitting = find_plan(ask("llama-3.1-70b", "dgx-h100:8", 8192, 512, ["tp=2", "pp=8", "recompute=full"]))
    assert fitting.predicted.fits


def test_a_model_too_large_for_the_cluster_says_how_many_nodes_it_takes():
    with pytest.raises(InfeasibleError) as caught:
        find_plan(ask("llama-3.1-405b", "dgx-h100:1"))
    nodes = int(caught.value.change.split()[0])
    assert find_plan(ask("llama-3.1-405b", f"dgx-h100:{nodes}")).predicted.fits


def test_a_host_too_small_for_offloading_is_what_binds():
    cluster = load_cluster("dgx-h100:1")
    group = cluster.node_groups[0]
    small = group.model_copy(update={"host": group.host.model_copy(update={"memory_bytes": 100e9})})
    request = replace(ask("llama-3.1-70b", "dgx-h100:1", 4096, 64, ["offload=1"]), framework="megatron-core")
    with pytest.raises(InfeasibleError) as caught:
        find_plan(replace(request, cluster=cluster.model_copy(update={"node_groups": (small,)})))
    assert caught.value.binding.startswith("the host needs 98.6 GiB of 11.6 GiB for each device")  # 70.6e9 x 12 / 8


def test_contradicting_pins_are_all_reported():
    with pytest.raises(InputError) as caught:
        find_plan(ask("llama-3.1-8b", pins=["tp=3", "microbatch=7"]))
    fields = {problem.field for problem in caught.value.problems}
    assert {"--pin tp", "--pin microbatch"} <= fields


def test_a_precision_the_device_lacks_is_refused():
    with pytest.raises(InputError, match="fp8"):
        find_plan(ask("llama-3.1-8b", "dgx-a100-80g:1", precision="fp8"))


def test_progress_counts_up():
    seen = []
    find_plan(ask("llama-3.2-1b"), progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert all(done <= total for done, total in seen)


def test_a_plan_says_in_json_what_the_contract_asks():
    plan = json.loads(find_plan(ask("llama-3.2-1b")).model_dump_json())
    assert set(plan["predicted"]["breakdown_s"]) >= {"compute", "tp", "dp", "bubble", "optimizer"}
    assert plan["predicted"]["origin"] in ("measured", "calibrated", "analytical")
    assert plan["proof"]["candidates"] > plan["proof"]["pruned"]


def test_the_reasons_say_what_recomputation_costs_and_what_a_runner_up_saves():
    """70B on 64 devices with full recomputation: whichever mesh wins, each runner-up loses by what it says."""
    plan = find_plan(ask("llama-3.1-70b", "dgx-h100:8", 8192, 512, pins=["recompute=full"]))
    repeated = 1 - plan.predicted.mfu / plan.predicted.hfu
    assert repeated > 0.2
    assert f"recomputation is {repeated:.0%} of its FLOPs" in " ".join(plan.why)
    assert len(plan.runners_up) > 1
    for runner in plan.runners_up:
        (reason,) = [each for each in plan.why if each.startswith(f"{describe(runner.mesh)} is ")]
        assert f"is {runner.slower_by:.1%} slower: it spends" in reason
        assert " s more on " in reason


@pytest.mark.parametrize(("layers", "devices", "memory"), [(8, 8, 0.3), (12, 16, 0.3), (16, 4, 0.6), (16, 16, 0.3)])
def test_as_many_runners_up_as_asked_for(layers, devices, memory):
    """Also of meshes whose likely configuration the search had looked at and found too slow to be the best."""
    plan = find_plan(requests_of("llama-3.1-8b", layers=layers, devices=devices, memory=memory))
    slower = [each.slower_by for each in plan.runners_up]
    assert len(slower) == 3
    assert slower == sorted(slower)


def test_a_runner_up_is_nearly_the_best_of_its_mesh():
    """Asked for with its mesh pinned, `plan` finds nothing that is better by a twentieth, though memory binds."""
    plan = find_plan(ask("llama-3.1-8b", "dgx-h100:1", 4096, 256, top=2))
    assert len(plan.runners_up) == 2
    for runner in plan.runners_up:
        mesh = [f"{name}={size}" for name, size in dict(runner.mesh).items()]
        pinned = find_plan(ask("llama-3.1-8b", "dgx-h100:1", 4096, 256, mesh, top=0))
        assert runner.step_time_s <= 1.05 * pinned.predicted.step_time_s
        assert plan.predicted.step_time_s <= runner.step_time_s
