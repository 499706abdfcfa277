"""Orders of nodes: against every order of small clusters, with the prices that plans have."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.clusters import Cluster
from meshwright.clusters.in_use import choices
from meshwright.clusters.wiring import Wiring
from meshwright.errors import InfeasibleError, InputError
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import step_s
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.pins import parse_pins
from meshwright.planner.search import mapping
from meshwright.planner.search.mapping import Mapper
from meshwright.planner.search.orders import Orders
from meshwright.planner.search.partition import even_split
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.search.space import divisors, worlds
from meshwright.planner.simulate.scenario import Scenario
from meshwright.planner.simulate.whatif import apply_settings

FABRIC = {"kind": "nvswitch", "bandwidth": "450 GB/s", "latency": "3 us", "efficiency": 0.65}
NICS = {"kind": "infiniband", "count": 1, "rate": "100 Gbit/s", "latency": "4 us", "efficiency": 0.8}
HOST = {"memory": "1 TB", "cores": 64, "device_link": "25 GB/s"}
GPT2 = load_model("gpt2")
JOB = Job(seq_len=1024, global_batch=32)


def group(name="a", nodes=4, devices=2, **changes):
    base = {"name": name, "nodes": nodes, "devices_per_node": devices, "device": "h100-sxm-80gb"}
    return base | {"fabric": FABRIC, "nics": NICS, "host": HOST} | changes


def machines(*groups, links=(), **exceptions):
    given = {"name": "test", "node_groups": groups or [group()], "links": links, "exceptions": exceptions}
    return Cluster.model_validate(given)


def setting_of(cluster, rank_map=()):
    return Setting(architecture(GPT2), cluster, JOB, rank_map=rank_map)


def configuration(**degrees):
    mesh = Mesh(**degrees)
    return Configuration(
        mesh=mesh,
        stage_layers=even_split(12, mesh.pp),
        microbatch=1,
        microbatches=JOB.global_batch // mesh.dp,
        zero=1,
        recompute=("none",) * mesh.pp,
    )


def meshes(world):
    """All with heads and layers that divide."""
    for tp in (1, 2, 4):
        for pp in divisors(world // tp):
            if pp <= 6:
                yield configuration(pp=pp, dp=world // tp // pp, tp=tp)


def all_orders(cluster):
    """Rank maps of every order of the nodes, the standard one first."""
    for order in permutations([node.devices for node in Wiring(cluster).nodes]):
        yield tuple(device for devices in order for device in devices)


def matrices(nodes):
    """Symmetric rates in GB/s."""

    def filled(rates):
        rows = [[0.0] * nodes for _ in range(nodes)]
        for (a, b), rate in zip(combinations(range(nodes), 2), rates, strict=True):
            rows[a][b] = rows[b][a] = float(rate)
        return rows

    pairs = nodes * (nodes - 1) // 2
    return st.lists(st.integers(1, 20), min_size=pairs, max_size=pairs).map(filled)


@pytest.mark.parametrize(("nodes", "devices"), [(4, 2), (3, 4)])
def test_on_a_homogeneous_cluster_no_order_is_better_than_the_standard_one(nodes, devices):
    """Not one of them differs. A factor of one says nothing, and has the standard order priced rank by rank too."""
    uniform = machines(group(nodes=nodes, devices=devices))
    same = machines(group(nodes=nodes, devices=devices), nodes=[{"node": "a/0", "network_factor": 1.0}])
    assert Mapper(setting_of(uniform)).count == Mapper(setting_of(same)).count == 1
    for each in meshes(nodes * devices):
        times = {step_s(setting_of(same, order), each) for order in all_orders(same)}
        assert len(times) == 1
        assert Mapper(setting_of(same)).best(each).tried == 1


@settings(max_examples=12, deadline=None)
@given(rows=matrices(4), data=st.data())
def test_the_best_order_of_few_nodes_is_that_of_all_orders(rows, data):
    cluster = machines(matrix={"rows": rows})
    each = data.draw(st.sampled_from(list(meshes(8))))
    least = min(step_s(setting_of(cluster, order), each) for order in all_orders(cluster))
    found = Mapper(setting_of(cluster)).best(each)
    assert found.step_s == pytest.approx(least, rel=1e-12)
    assert found.step_s == pytest.approx(step_s(setting_of(cluster, found.rank_map), each), rel=1e-12)
    assert found.bound_s <= found.step_s <= found.standard_s


@settings(max_examples=8, deadline=None)
@given(rows=matrices(5), data=st.data())
def test_of_many_orders_the_one_found_is_within_its_stated_gap(rows, data):
    """The same small cluster, searched as a large one is: guesses, and exchanges of nodes."""
    cluster = machines(group(nodes=5), matrix={"rows": rows})
    each = data.draw(st.sampled_from(list(meshes(10))))
    least = min(step_s(setting_of(cluster, order), each) for order in all_orders(cluster))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapping, "EXACT", 0)
        patch.setattr(mapping, "LEAST_TRIED", 30)
        found = Mapper(setting_of(cluster)).best(each)
    assert found.bound_s <= least * (1 + 1e-12)
    assert least * (1 - 1e-12) <= found.step_s <= found.standard_s
    assert found.tried <= 30 + 16


@settings(max_examples=12, deadline=None)
@given(rows=matrices(3), data=st.data())
def test_a_faster_path_never_makes_a_step_slower(rows, data):
    a, b = data.draw(st.sampled_from(list(combinations(range(3), 2))))
    faster = [list(row) for row in rows]
    faster[a][b] = faster[b][a] = rows[a][b] + data.draw(st.integers(1, 20))
    before, after = (machines(group(nodes=3), matrix={"rows": each}) for each in (rows, faster))
    order = data.draw(st.sampled_from(list(all_orders(before))))
    for each in meshes(6):
        slow, fast = step_s(setting_of(before, order), each), step_s(setting_of(after, order), each)
        assert fast <= slow * (1 + 1e-12)


def test_nodes_that_nothing_tells_apart_are_one_class():
    slow = [{"node": "a/1", "network_factor": 0.5}]
    assert Orders(Wiring(machines(nodes=slow)), range(8)).count == 4
    two = [*slow, {"node": "a/3", "network_factor": 0.5}]
    assert Orders(Wiring(machines(nodes=two)), range(8)).count == 6
    apart = machines(paths=[{"between": ["a/0", "a/1"], "factor": 0.1}])
    assert Orders(Wiring(apart), range(8)).count == 6
    many = Orders(Wiring(machines(group(nodes=40), nodes=slow)), range(80))
    assert many.count == len(list(many.every())) == 40


def test_a_slow_node_goes_to_an_end_of_the_pipeline():
    """There it has one border, not two."""
    cluster = machines(nodes=[{"node": "a/1", "network_factor": 0.1}])
    found = Mapper(setting_of(cluster)).best(configuration(pp=4, dp=2))
    places = [found.rank_map[place] // 2 for place in range(0, 8, 2)]
    assert places.index(1) in (0, 3)
    assert found.step_s < found.standard_s
    assert found.is_exact


def test_two_nodes_badly_joined_are_no_neighbours():
    cluster = machines(paths=[{"between": ["a/1", "a/2"], "factor": 0.05}])
    pipeline = Mapper(setting_of(cluster)).best(configuration(pp=4, dp=2))
    places = [pipeline.rank_map[place] // 2 for place in range(0, 8, 2)]
    assert abs(places.index(1) - places.index(2)) > 1
    ring = Mapper(setting_of(cluster)).best(configuration(dp=8))
    places = [ring.rank_map[place] // 2 for place in range(0, 8, 2)]
    assert abs(places.index(1) - places.index(2)) == 2
    assert pipeline.step_s < pipeline.standard_s
    assert ring.step_s < ring.standard_s


def ask(cluster, *pins, **other):
    return Request(model=GPT2, cluster=cluster, job=JOB, pins=parse_pins(list(pins)), **other)


@settings(max_examples=3, deadline=None)
@given(rows=matrices(4))
def test_a_plan_and_its_proof_hold_for_every_order(rows):
    cluster = machines(matrix={"rows": rows})
    pins = ("tp=1", "microbatch=1", "schedule=1f1b", "recompute=none", "spread_vocabulary=false", "vpp=1")
    plan = find_plan(ask(cluster, *pins, gap=0.0))
    times = [
        step_s(setting_of(cluster, order), each)
        for each in meshes(8)
        if each.mesh.tp == 1
        for order in all_orders(cluster)
    ]
    assert plan.proof.lower_bound_s <= min(times) * (1 + 1e-9)
    assert plan.proof.orders == ("every" if Mapper(setting_of(cluster)).count > 1 else "")
    assert plan.predicted.step_time_s <= min(times) * (1 + 1e-9) or plan.proof.gap > 0
    assert Scenario.of(plan).rank_map == plan.rank_map
    assert step_s(Scenario.of(plan).setting, plan.configuration) == pytest.approx(plan.predicted.step_time_s, rel=1e-12)


def test_a_cluster_with_a_missing_device_has_a_plan():
    """Of four nodes of two, one lacks a device: six devices in three nodes, or four, one of each."""
    cluster = machines(nodes=[{"node": "a/2", "missing": [1]}])
    assert choices(cluster) == [(0, 1, 2, 3, 6, 7), (0, 2, 4, 6)]
    job = JOB.model_copy(update={"global_batch": 48})
    plan = find_plan(replace(ask(cluster), job=job))
    assert plan.configuration.mesh.world == 6
    assert set(plan.rank_map) == {0, 1, 2, 3, 6, 7}
    alone = machines(group(nodes=1, devices=8, nics=None), nodes=[{"node": "a/0", "missing": [0]}])
    plan = find_plan(ask(alone))
    assert plan.configuration.mesh.world == 4  # seven or six make no batch of 32
    assert plan.rank_map == (1, 2, 3, 4)


def test_fewer_devices_are_those_of_whole_nodes_as_ranks_fill_them():
    cluster = machines(group(nodes=3, devices=4), nodes=[{"node": "a/1", "missing": [0]}])
    setting = Setting(architecture(GPT2), cluster, JOB, every_device=False)
    found = [worlds(setting.mapped(devices)) for devices in choices(cluster)]
    assert found == [[9, 6, 3], [8, 4], [6, 4, 2], [3, 2, 1]]


def test_a_whole_missing_node_is_left_out():
    cluster = machines(group(nodes=5), nodes=[{"node": "a/1", "missing": "all"}])
    plan = find_plan(ask(cluster))
    assert plan.rank_map == (0, 1, 4, 5, 6, 7, 8, 9)


def test_two_groups_stand_in_the_better_order():
    """One group has a slow network: which end of the pipeline it takes is found, not given."""
    slow = group("b", nodes=2, nics=NICS | {"kind": "roce", "rate": "10 Gbit/s"})
    link = {"between": ["a", "b"], "kind": "ethernet", "bandwidth": "10 Gbit/s", "latency": "1 ms"}
    plans = [
        find_plan(ask(machines(*groups, links=[link]), "pp=2", "tp=1", "zero=1"))
        for groups in ((group(nodes=2), slow), (slow, group(nodes=2)))
    ]
    assert plans[0].predicted.step_time_s == pytest.approx(plans[1].predicted.step_time_s, rel=1e-9)
    assert [bool(plan.rank_map) for plan in plans] in ([True, False], [False, True])


@pytest.mark.parametrize("small", [0, 1])
def test_an_order_in_which_nothing_fits_does_not_hide_the_other(small):
    """A small device has room for a layer and the embedding, but not for the logits of the last stage."""
    link = {"between": ["a", "b"], "kind": "ethernet", "bandwidth": "10 Gbit/s", "latency": "1 ms"}
    cluster = machines(group("a", nodes=1, devices=1), group("b", nodes=1, devices=1), links=[link])
    groups = list(cluster.node_groups)
    device = groups[small].device.model_copy(update={"memory_bytes": 8e9})
    groups[small] = groups[small].model_copy(update={"device": device})
    cluster = cluster.model_copy(update={"node_groups": tuple(groups)})
    pins = "pp=2", "schedule=1f1b", "microbatch=16", "logits_chunks=1", "recompute=full", "zero=0", "offload=0"
    request = ask(cluster, *pins)
    request = replace(request, job=request.job.model_copy(update={"kernels": "reference"}))  # Triton's hold no logits
    plan = find_plan(request)
    assert plan.predicted.fits
    assert (plan.rank_map or (0, 1))[0] == small
    with pytest.raises(InfeasibleError):
        find_plan(replace(request, rank_map=(1 - small, small)))


def test_why_says_where_a_slow_node_runs_and_what_the_order_saves():
    cluster = machines(nodes=[{"node": "a/1", "network_factor": 0.05}])
    plan = find_plan(ask(cluster, "pp=4", "tp=1", "schedule=1f1b"))
    told = "\n".join(plan.why)
    standard = step_s(setting_of(cluster), plan.configuration) / plan.predicted.step_time_s - 1
    assert f"in the order of the cluster file its step takes {standard:.1%} longer" in told
    stage = plan.rank_map.index(2) // 2
    assert f"Node a/1 (network 0.05x) runs pipeline rank {stage}." in told
    assert "The bound holds for every order of the nodes." in told
    assert "Node" not in "\n".join(find_plan(ask(machines(), "pp=4", "tp=1", "schedule=1f1b")).why)


def test_numbers_that_do_not_follow_each_other_are_named_one_by_one():
    plan = find_plan(ask(machines(nodes=[{"node": "a/1", "missing": [0]}]), "tp=1"))
    assert "Node a/1 (without device 0)" in "\n".join(plan.why)
    cluster = machines(group(nodes=3, devices=4), nodes=[{"node": "a/2", "missing": [0, 2, 3]}])
    assert "Node a/2 (without devices 0, 2 to 3)" in "\n".join(find_plan(ask(cluster, "tp=1")).why)


def test_settings_keep_an_order_that_still_suits():
    cluster = machines(nodes=[{"node": "a/1", "network_factor": 0.05}])
    plan = find_plan(ask(cluster, "pp=4", "tp=1", "schedule=1f1b", "microbatch=1"))
    assert apply_settings(plan, []).rank_map == plan.rank_map != ()
    assert apply_settings(plan, ["job.seq_len=512"]).rank_map == plan.rank_map
    fewer = apply_settings(plan, ["devices=4"])
    assert fewer.rank_map == ()
    assert [each.node for each in fewer.cluster.exceptions.nodes] == ["a/1"]
    with pytest.raises(InputError, match=r"rank_map\[1\] = 0: rank 0 has this device already"):
        apply_settings(plan.model_copy(update={"rank_map": (0, 0, *range(2, 8))}), [])


def test_of_three_groups_the_two_that_are_well_joined_are_neighbours():
    """A pipeline over three sites in a row, which the file names in another order."""
    groups = [group(name, nodes=1, devices=2) for name in "abc"]
    rates = {("a", "b"): "1 Gbit/s", ("a", "c"): "100 Gbit/s", ("b", "c"): "100 Gbit/s"}
    links = [
        {"between": pair, "kind": "ethernet", "bandwidth": rate, "latency": "1 ms"} for pair, rate in rates.items()
    ]
    request = replace(
        ask(machines(*groups, links=links), "pp=3", "tp=1", "vpp=1"), job=Job(seq_len=1024, global_batch=24)
    )
    plan = find_plan(request)
    assert plan.rank_map in ((0, 1, 4, 5, 2, 3), (2, 3, 4, 5, 0, 1))
    assert plan.proof.orders == "groups kept"
    standard = find_plan(replace(request, rank_map=tuple(range(6))))
    assert plan.predicted.step_time_s < standard.predicted.step_time_s
