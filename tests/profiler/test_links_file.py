"""From rows to a cluster file: costs come back, and hosts become what the file has words for."""

from __future__ import annotations

from io import StringIO
from itertools import combinations

import pytest
from rich.console import Console

from meshwright.clusters import Topology
from meshwright.clusters.link_costs import moved_bytes
from meshwright.clusters.schema import Cluster
from meshwright.display.profile import show_cluster
from meshwright.planner.cost import communication as price
from meshwright.profiler.links_file import assemble
from meshwright.profiler.links_fit import link_costs
from meshwright.profiler.parts import Found
from meshwright.schema import parse
from meshwright.tests.cluster.ideal import MORE, SIZES, results, ring_rate, rows
from meshwright.tests.cluster.planned import DEVICE, measured_cluster
from meshwright.tests.cluster.scenario import SCENARIOS, Scenario


@pytest.fixture(params=SCENARIOS, ids=lambda scenario: scenario.name)
def scenario(request):
    return request.param


def test_every_path_has_the_rate_that_was_built(scenario):
    cluster = measured_cluster("testbed", scenario.hosts, results(scenario))
    topology = Topology(cluster)
    for a, b in combinations(range(scenario.hosts), 2):
        found = topology.point_to_point(a, b).bandwidth_bytes_per_s
        assert found == pytest.approx(scenario.bytes_per_s(a, b), rel=0.01)


def test_collectives_of_all_cost_what_was_measured(scenario):
    cluster = measured_cluster("testbed", scenario.hosts, results(scenario))
    everybody = tuple(range(scenario.hosts))
    group, rate = Topology(cluster).group(everybody), ring_rate(scenario, everybody)
    for size in SIZES:
        wire_s = moved_bytes("all_reduce", scenario.hosts, size) / rate
        assert price.all_reduce_s(group, size) == pytest.approx(1e-3 + wire_s, rel=0.01)
        assert price.reduce_scatter_s(group, size) == pytest.approx(1e-3 + wire_s, rel=0.01)  # gloo: twice a ring's


def test_the_file_says_it_in_its_own_words():
    found = {each.name: measured_cluster("testbed", each.hosts, results(each)) for each in SCENARIOS}
    racks, host, link, _, cards, eight = found.values()
    assert racks.exceptions.matrix is not None  # they stand in turns
    for cluster, slow in ((host, ("local/1", 6.25e6)), (eight, ("local/3", 3.125e6))):
        assert [(each.node, each.network_bytes_per_s) for each in cluster.exceptions.nodes] == [slow]
    assert [path.between for path in link.exceptions.paths] == [("local/1", "local/2")]
    assert [group.nodes for group in cards.node_groups] == [2, 2]
    assert [group.nics.rate_bytes_per_s for group in cards.node_groups] == [7.5e6, 25e6]


def test_racks_side_by_side_are_node_groups_with_a_link():
    scenario = Scenario("racks", (200.0,) * 4, ((0, 1), (2, 3)), uplink_mbit=80)
    told = results(scenario)
    told[0]["uplinks"] = [[0, 2, 5e6, 5e6, 0], [1, 3, 5e6, 5e6, 0]]
    cluster = measured_cluster("testbed", 4, told)
    assert [(group.name, group.nodes) for group in cluster.node_groups] == [("rack-0", 2), ("rack-1", 2)]
    assert cluster.links[0].bandwidth_bytes_per_s == pytest.approx(10e6)
    assert Topology(cluster).point_to_point(0, 2).bandwidth_bytes_per_s == pytest.approx(5e6)


def test_hosts_of_several_workers_and_one_that_lacks_a_worker():
    pairs = [[a, b, 12.5e6, 12.5e6, 1e-4] for a, b in ((0, 2), (1, 3), (0, 4), (2, 4))]
    inside = list(rows("inside", [(0, 1), (2, 3)], lambda _: 1e9))
    told = {"hosts": {str(rank): f"host {rank // 2}" for rank in range(5)}, "pairs": pairs, "rows": inside}
    cluster = measured_cluster("testbed", 5, [told, {}, {}, {}, {}])
    (group,) = cluster.node_groups
    assert (group.nodes, group.devices_per_node, cluster.num_devices) == (3, 2, 5)
    assert cluster.missing_devices == {5}
    assert {cost.operation for cost in group.fabric.costs} >= {"all_reduce", "broadcast"}


def base(groups):
    fabric = {"kind": "shared-memory", "bandwidth": "1 GB/s", "latency": "0.1 ms", "efficiency": 1.0}
    host = {"memory": "16 GB", "cores": 2, "device_link": "10 GB/s"}
    nics = {"kind": "infiniband", "count": 1, "rate": "1 GB/s", "latency": "1 ms"}
    each = {"devices_per_node": 1, "device": DEVICE, "fabric": fabric, "host": host, "nics": nics}
    return {"name": "known", "node_groups": [each | group for group in groups], "measured": {"notes": []}}


def test_groups_of_devices_that_are_there_already_stay():
    mapping = base([{"name": "old", "nodes": 2}, {"name": "new", "nodes": 2}])
    assemble(mapping, Found([{"links": each} for each in results(SCENARIOS[1])], [[0, 1], [2, 3]]))
    del mapping["measured"]
    cluster = parse(Cluster, mapping, "known")
    assert [(group.name, group.nodes, group.nics.kind) for group in cluster.node_groups] == [
        ("old", 2, "infiniband"),
        ("new", 2, "infiniband"),
    ]
    assert [node.node for node in cluster.exceptions.nodes] == ["old/1"]


def test_what_failed_is_a_note():
    mapping = base([{"name": "local", "nodes": 1}])
    assemble(mapping, Found([{"links": {"notes": ["pairs: timed out"]}}], [[0]]))
    assert mapping["measured"]["notes"] == [{"part": "links", "what": "what failed", "why": "pairs: timed out"}]


def test_a_fixed_price_by_size_and_the_bytes_of_the_library_are_found_again():
    seen = list(rows("inside", [(0, 1, 2, 3)], lambda _: 1e9, latency_s=2e-3))
    costs = {cost["operation"]: cost for cost in link_costs(seen, {(0, 1, 2, 3): 1e9})}
    for name, cost in costs.items():
        assert cost["factor"] == pytest.approx(MORE.get(name, 1.0), rel=0.01)
        assert [point["seconds"] for point in cost["fixed"]] == pytest.approx([2e-3] * len(SIZES), rel=0.02)


def test_nothing_costs_less_than_nothing_where_small_messages_pass_free():
    seen = [row | {"seconds": row["seconds"] * (0.3 if row["bytes"] < 2**19 else 1)} for row in
            rows("inside", [(0, 1)], lambda _: 1e8, latency_s=0.0)]  # fmt: skip
    for cost in link_costs(seen, {(0, 1): 1e8}):
        assert all(point["seconds"] >= 0 for point in cost["fixed"])


def host(slow, kind="cuda"):
    """Four devices of one host, as their workers would report it; some pairs have a twentieth of the others' rate."""
    rate = {pair: 5e9 if pair in slow else 100e9 for pair in combinations(range(4), 2)}
    told = {
        "hosts": {str(rank): "here" for rank in range(4)},
        "pairs": [[a, b, each, each, 1e-5] for (a, b), each in rate.items()],
        "rows": list(rows("inside", [(0, 1, 2, 3)], lambda _: 100e9)),
    }
    mapping = base([{"name": "local", "nodes": 1, "devices_per_node": 4, "device": DEVICE | {"kind": kind}}])
    assemble(mapping, Found([{"links": each} for each in (told, {}, {}, {})], [range(4)]))
    del mapping["measured"]
    return parse(Cluster, mapping, "known")


def test_a_slow_link_between_devices_of_a_host_is_written_and_named():
    cluster = host({(1, 2)})
    topology = Topology(cluster)
    found = {pair: topology.point_to_point(*pair).bandwidth_bytes_per_s for pair in combinations(range(4), 2)}
    assert found == {pair: 5e9 if pair == (1, 2) else 100e9 for pair in found}
    console = Console(file=StringIO(), width=200)
    show_cluster(console, cluster)
    named = [line for line in console.file.getvalue().splitlines() if "slow" in line]
    assert named == ["slow link: devices 1 - 2 of local, 5.00 GB/s where 100 GB/s is usual"]


def test_halves_of_a_host_are_in_the_matrix():
    across = {(0, 2), (0, 3), (1, 2), (1, 3)}
    matrix = host(across).node_groups[0].fabric.matrix
    assert {pair for pair in combinations(range(4), 2) if matrix.slower(*pair) == 5e9} == across


@pytest.mark.parametrize(("slow", "kind"), [(set(), "cuda"), ({(1, 2)}, "cpu")])
def test_devices_that_are_joined_alike_and_processors_have_no_matrix(slow, kind):
    """Workers on a CPU share its memory: what differs between pairs there is the moment."""
    assert host(slow, kind).node_groups[0].fabric.matrix is None
