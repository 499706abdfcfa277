"""Clusters of different devices: prices per rank, uneven stages, uneven shares, and the plans that come of them."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.schema import Cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.bound import lower_bound_s
from meshwright.planner.cost.footprint import peaks
from meshwright.planner.cost.replica import classes, replica_ranks, replicas
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price, step_s
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import is_legal, problems, runtime_problems
from meshwright.planner.pins import Pins, parse_pins
from meshwright.planner.plan import Plan
from meshwright.planner.search.bound import Balancer
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.search.shares import fair_shares
from meshwright.planner.search.space import candidates
from meshwright.planner.simulate.simulation import simulate


def cluster(*parts: tuple[str, int], link: str = "6.4 Tbit/s", latency: str = "5 us") -> Cluster:
    """Nodes of bundled clusters, joined in pairs by equal links; `parts` are (name, nodes)."""
    groups = [
        load_cluster(f"{name}:{nodes}").node_groups[0].model_copy(update={"name": f"{name}-{place}"})
        for place, (name, nodes) in enumerate(parts)
    ]
    links = [
        {"between": [a.name, b.name], "kind": "infiniband", "bandwidth": link, "latency": latency}
        for a, b in itertools.combinations(groups, 2)
    ]
    return Cluster.model_validate({"name": "mixed", "node_groups": groups, "links": links})


def ask(where: Cluster, model="llama-3.2-1b", seq_len=4096, batch=64, pins=(), **changes) -> Request:
    job = Job(seq_len=seq_len, global_batch=batch, precision="bf16")
    return Request(model=load_model(model), cluster=where, job=job, pins=parse_pins(pins), **changes)


def setting_of(request: Request) -> Setting:
    return Setting(architecture(request.model), request.cluster, request.job)


def as_slow(where: Cluster) -> Cluster:
    """The same cluster, of devices that are all as slow as the slowest of them."""
    slowest = min((group.device for group in where.node_groups), key=lambda device: device.peak_flops["bf16"])
    groups = tuple(group.model_copy(update={"device": slowest}) for group in where.node_groups)
    return where.model_copy(update={"node_groups": groups})


BOTH = cluster(("dgx-a100-80g", 1), ("dgx-h100", 1))
PIPELINE = Configuration(
    mesh=Mesh(pp=4, dp=2, tp=2), stage_layers=(4,) * 4, microbatch=1, microbatches=32, sp=True, recompute=("none",) * 4
)
REPLICAS = replace(PIPELINE, mesh=Mesh(dp=8, tp=2), stage_layers=(16,), microbatches=8, recompute=("none",))


def test_a_uniform_cluster_has_no_views():
    setting = setting_of(ask(load_cluster("dgx-h100:2")))
    assert all(setting.at(PIPELINE, rank) is setting is setting.stage_at(PIPELINE, rank) for rank in range(4))
    assert replicas(setting, PIPELINE) == ((setting, PIPELINE),)


def test_every_rank_sees_its_own_devices():
    setting = setting_of(ask(BOTH))
    names = [setting.at(PIPELINE, rank).device.name for rank in range(4)]
    assert names == ["a100-sxm-80gb"] * 2 + ["h100-sxm-80gb"] * 2
    assert setting.device.name == "a100-sxm-80gb"
    assert setting.at(PIPELINE, 0) is setting.at(PIPELINE, 1)
    assert setting.at(PIPELINE, 3).host_link_bytes_per_s == BOTH.node_groups[1].host.device_link_bytes_per_s
    assert [setting.at(replace(PIPELINE, mesh=Mesh(dp=16)), 0).device.name] == ["a100-sxm-80gb"]


def test_a_rank_is_priced_as_on_a_cluster_of_its_devices():
    """Without transfers between groups the stages take what they take on a uniform cluster of each kind."""
    mixed = price(setting_of(ask(BOTH)), replace(PIPELINE, stage_layers=(1, 1, 13, 1)))
    h100 = price(
        setting_of(ask(cluster(("dgx-h100", 1), ("dgx-h100", 1)))), replace(PIPELINE, stage_layers=(1, 1, 13, 1))
    )
    a100 = price(setting_of(ask(as_slow(BOTH))), replace(PIPELINE, stage_layers=(1, 1, 13, 1)))
    assert mixed.breakdown_s.compute == pytest.approx(h100.breakdown_s.compute)
    assert a100.breakdown_s.compute > 1.5 * mixed.breakdown_s.compute


def test_every_rank_has_the_limit_of_its_own_devices():
    where = cluster(("rtx4090-ethernet", 1), ("dgx-h100", 1))
    setting = setting_of(ask(where, "llama-3.1-8b"))
    predicted = price(setting, replace(PIPELINE, stage_layers=(8,) * 4))
    small, large = (int(group.device.memory_bytes) for group in where.node_groups)
    assert predicted.limits_bytes == (small, small, large, large)
    assert predicted.memory_limit_bytes == small
    assert not predicted.fits
    assert price(setting, replace(PIPELINE, stage_layers=(2, 2, 14, 14))).fits


def test_flops_are_counted_over_all_devices():
    predicted, world = price(setting_of(ask(BOTH)), PIPELINE), 16
    flops = [8 * group.device.peak_flops["bf16"] for group in BOTH.node_groups]
    assert predicted.mfu == pytest.approx(predicted.model_tflops_per_device * 1e12 * world / sum(flops))


def test_replicas_of_a_stage_over_two_groups_are_priced_apart():
    setting = setting_of(ask(BOTH))
    slow, fast = replicas(setting, REPLICAS)
    assert [list(replica_ranks(REPLICAS, each)) for each in classes(setting, REPLICAS)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert step_s(*slow) > 1.5 * step_s(*fast)
    assert step_s(setting, REPLICAS) == step_s(*slow)


def test_a_block_over_two_groups_is_as_slow_as_the_slower():
    """Context-parallel neighbours wait for each other in every layer."""
    where = cluster(("dgx-a100-80g", 1), ("dgx-h100", 2))
    over = replace(REPLICAS, mesh=Mesh(dp=1, cp=12, tp=2), microbatches=64)
    assert [seen.at(over, 0).device.name for seen, _ in replicas(setting_of(ask(where)), over)] == ["a100-sxm-80gb"]


# -- shares


@settings(max_examples=200, deadline=None)
@given(times=st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 10)), min_size=1, max_size=4), more=st.integers(0, 6))
def test_no_shares_have_a_faster_slowest_replica(times, more):
    total = len(times) + more
    found = fair_shares(times, total)
    assert sum(found) == total
    assert min(found) >= 1

    def slowest(shares):
        return max(before_s + share * each_s for share, (before_s, each_s) in zip(shares, times, strict=True))

    ways = itertools.product(range(1, more + 2), repeat=len(times))
    assert slowest(found) == pytest.approx(min(slowest(shares) for shares in ways if sum(shares) == total))


def test_shares_are_a_lever_like_others():
    assert parse_pins(["shares=3,3,2"]).shares == (3, 3, 2)
    setting = setting_of(ask(BOTH))
    shared = replace(REPLICAS, shares=(5,) * 4 + (11,) * 4, microbatches=11)
    assert problems(setting, shared) == runtime_problems(setting, shared) == []
    assert price(setting, shared).step_time_s < price(setting, REPLICAS).step_time_s
    seen = {asked.microbatches for _, asked in replicas(setting, shared)}
    assert seen == {5, 11}


@pytest.mark.parametrize(
    ("changes", "field", "fix"),
    [
        ({"shares": (8,) * 7}, "--pin shares", "shares=8,8,8,8,8,8,8,8"),
        ({"shares": (9,) * 8, "microbatches": 9}, "--pin shares", "shares=8,8,8,8,8,8,8,8"),
        ({"shares": (0, 16, 8, 8, 8, 8, 8, 8), "microbatches": 16}, "--pin shares", "shares=8,8,8,8,8,8,8,8"),
        ({"shares": (7, 9, 8, 8, 8, 8, 8, 8)}, "microbatches", "microbatches=9"),
        ({"shares": (7, 9, 8, 8, 8, 8, 8, 8), "microbatches": 9, "zero": 3}, "--pin shares", "zero=1"),
    ],
)
def test_shares_that_cannot_be_are_refused(changes, field, fix):
    found = problems(setting_of(ask(BOTH)), replace(REPLICAS, **changes))
    assert [(problem.field, problem.fix) for problem in found] == [(field, fix)]


def test_experts_over_several_replicas_ask_for_equal_shares():
    setting = setting_of(ask(BOTH, "olmoe-1b-7b"))
    base = replace(REPLICAS, shares=(7, 9, 8, 8, 8, 8, 8, 8), microbatches=9)
    assert [each.fix for each in problems(setting, replace(base, mesh=Mesh(dp=8, tp=2, ep=4)))] == ["ep=1"]
    inside = replace(base, mesh=Mesh(dp=8, tp=2, ep=2))
    assert problems(setting, inside) == []
    assert [each.field for each in runtime_problems(setting, inside)] == ["--pin shares"]


def test_a_batch_that_replicas_do_not_divide_is_planned_with_shares():
    request = ask(load_cluster("dgx-h100:1"), batch=10, pins=["dp=8", "microbatch=1", "shares=2,2,1,1,1,1,1,1"])
    plan = find_plan(request)
    assert plan.configuration.shares == (2, 2, 1, 1, 1, 1, 1, 1)
    assert Plan.model_validate(plan.model_dump(mode="json", by_alias=True)).configuration == plan.configuration


# -- plans

MIXED = {
    "a100+h100": BOTH,
    "h100+a100": cluster(("dgx-h100", 1), ("dgx-a100-80g", 1)),
    "thin link": cluster(("dgx-a100-80g", 1), ("dgx-h100", 1), link="100 Gbit/s", latency="1 ms"),
    "small memory": cluster(("dgx-h100", 1), ("dgx-a100-40g", 1)),
    "three kinds": cluster(("dgx-a100-80g", 1), ("dgx-h100", 2), ("dgx-b200", 1)),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_plan_is_legal_fits_every_rank_and_is_never_slower_than_without_the_speed(name):
    request = ask(MIXED[name], gap=0.0)
    plan = find_plan(request)
    setting = setting_of(request).mapped(plan.rank_map)
    assert problems(setting, plan.configuration) == []
    assert all(peak.fits for peak in peaks(setting, plan.configuration))
    limits = [
        int(min(group.device.memory_bytes for group in setting.stage_at(plan.configuration, rank).node_groups))
        for rank in range(plan.mesh.pp)
    ]
    used = plan.predicted.peak_memory_bytes
    assert all(peak <= limit for peak, limit in zip(used, limits, strict=True))
    assert plan.proof.lower_bound_s <= plan.predicted.step_time_s
    without = find_plan(ask(as_slow(MIXED[name]), gap=0.0))
    assert plan.predicted.step_time_s <= without.predicted.step_time_s * (1 + 1e-9)


def test_two_kinds_together_are_faster_than_either_alone():
    """Replicas of each kind take what they can do; the link carries gradients."""
    both = find_plan(ask(BOTH, batch=256)).predicted.step_time_s
    alone = [
        find_plan(ask(load_cluster(name), batch=256)).predicted.step_time_s for name in ("dgx-a100-80g:1", "dgx-h100:1")
    ]
    assert both < 0.8 * min(alone)
    assert both > 1 / sum(1 / each for each in alone) * 0.9


def test_two_equal_groups_are_priced_and_planned_as_one():
    """Joined by a link as fast as their own network. Every pair of groups has its own path, so that nothing is shared
    that one group would not share."""
    one = load_cluster("dgx-h100:2")
    nics = one.node_groups[0].nics
    two = cluster(
        ("dgx-h100", 1),
        ("dgx-h100", 1),
        link=f"{nics.count * nics.rate_bytes_per_s * nics.efficiency / 1e9} GB/s",
        latency=f"{nics.latency_s * 1e6} us",
    )
    for pins in ((), ("pp=2",), ("pp=1",)):
        plan = find_plan(ask(one, "llama-3.1-8b", pins=pins))
        single, double = (price(setting_of(ask(where, "llama-3.1-8b")), plan.configuration) for where in (one, two))
        assert double.step_time_s == pytest.approx(single.step_time_s, rel=1e-9)
        assert double.breakdown_s.model_dump() == pytest.approx(single.breakdown_s.model_dump(), rel=1e-9, abs=1e-9)
        assert double.peak_memory_bytes == single.peak_memory_bytes
        mixed = find_plan(ask(two, "llama-3.1-8b", pins=pins)).configuration
        assert not mixed.shares
        assert price(setting_of(ask(one, "llama-3.1-8b")), mixed).step_time_s <= 1.05 * plan.predicted.step_time_s


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(MIXED)), seed=st.randoms(use_true_random=False))
def test_no_step_on_a_mixed_cluster_is_below_its_bound(name, seed):
    setting = setting_of(ask(MIXED[name]))
    every = [each for each in SPACES.setdefault(name, list(candidates(setting, Pins()))) if is_legal(setting, each)]
    balancer = Balancer(setting)
    for configuration in seed.sample(every, 8):
        balanced = balancer.balanced(configuration)
        assert is_legal(setting, balanced)
        assert lower_bound_s(setting, balanced) <= step_s(setting, balanced)


SPACES: dict[str, list[Configuration]] = {}


def test_explain_says_which_devices_hold_what():
    words = " ".join(find_plan(ask(BOTH, pins=["pp=2", "dp=8"])).why)
    assert re.search(r"tage [01] on a100-sxm-80gb: ", words)  # which group comes first is found too
    assert re.search(r"tage [01] on h100-sxm-80gb: ", words)
    words = " ".join(find_plan(ask(BOTH, pins=["dp=16"])).why)
    assert re.search("[Rr]eplicas (0-7|8-15) on a100-sxm-80gb: ", words)
    assert "times as long on a100-sxm-80gb as on h100-sxm-80gb" in words


def test_a_plan_with_shares_is_simulated_and_changed():
    plan = find_plan(ask(BOTH, pins=["dp=16"]))
    assert plan.shares[0] != plan.shares[-1]
    found = simulate(plan)
    assert found.step_time_s == pytest.approx(plan.predicted.step_time_s)
    assert found.timeline.step_s == pytest.approx(found.step_time_s)
    twice = simulate(plan, ["job.global_batch=2x"]).scenario.configuration
    assert twice.batch == 128
    assert (twice.shares[0] < twice.shares[-1]) == (plan.shares[0] < plan.shares[-1])
    swapped = simulate(plan, ["shares=[" + ",".join(map(str, plan.shares[::-1])) + "]"])
    assert swapped.step_time_s > found.step_time_s


@pytest.mark.parametrize("cheap", [0, 1])
def test_the_cheapest_plan_may_leave_either_group_idle(cheap):
    """Whole nodes are filled in the order of the ranks, whichever group the file names first."""
    where = cluster(("dgx-a100-80g", 1), ("rtx4090-ethernet", 1))
    groups = list(where.node_groups)
    small = groups[1].model_copy(update={"devices_per_node": 2, "nodes": 3, "device": groups[0].device})
    groups[1] = small.model_copy(update={"price_per_device_hour": 1.0})
    groups[0] = groups[0].model_copy(update={"price_per_device_hour": 9.0})
    groups = groups if cheap else groups[::-1]
    where = where.model_copy(update={"node_groups": tuple(groups)})
    plan = find_plan(ask(where, batch=24, objective="cost", pins=["schedule=1f1b", "microbatch=1"]))
    setting = replace(setting_of(ask(where)), rank_map=plan.rank_map)
    used = setting.devices_used(plan.configuration.mesh.world)
    assert {group.price_per_device_hour for group, _ in used} == {1.0}
    assert plan.configuration.mesh.world % 2 == 0


def test_the_loss_is_in_one_piece_where_that_fits_and_is_faster():
    """Listed are as few chunks as keep the logits of a microbatch below an eighth of the smallest device."""
    request = ask(cluster(("dgx-a100-80g", 1), ("dgx-h100", 1)), batch=64, pins=["pp=1", "tp=1", "microbatch=4"])
    plan = find_plan(request)
    whole = price(replace(setting_of(request), rank_map=plan.rank_map), replace(plan.configuration, logits_chunks=1))
    assert not whole.fits or plan.predicted.step_time_s <= whole.step_time_s
