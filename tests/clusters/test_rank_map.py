"""Ranks in any order, and nodes that differ: against arithmetic, and against the graph."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise, permutations, product

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.clusters import Topology, load_cluster
from meshwright.clusters.any_order import AnyOrder
from meshwright.clusters.mapped import Mapped
from meshwright.clusters.wiring import Wiring
from meshwright.errors import InputError

from .machines import FABRIC, NICS, SMALL, UNEVEN, cluster_of, node_group, single, two_sites

EVEN = {name: cluster for name, cluster in SMALL.items() if name not in UNEVEN} | {
    "three sites": cluster_of(
        *(node_group(name, nodes, 2) for name, nodes in (("a", 2), ("b", 1), ("c", 3))),
        links=[
            {"between": [a, b], "kind": "ethernet", "bandwidth": rate, "latency": "1 ms"}
            for (a, b), rate in zip(combinations("abc", 2), ("8 GB/s", "4 GB/s", "2 GB/s"), strict=True)
        ],
    ),
    "few links": load_cluster("dgx-1-v100:2"),
    "larger domains": load_cluster("gb200-nvl72:36"),
}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_rank_by_rank_answers_as_arithmetic_does(data):
    """The general answers, given the standard order of a cluster without exceptions."""
    cluster = data.draw(st.sampled_from(list(EVEN.values())))
    topology, mapped = Topology(cluster), Mapped(Wiring(cluster), range(cluster.num_devices))
    assert topology.is_regular
    stride, count = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 12))
    start = data.draw(st.integers(0, cluster.num_devices - 1))
    ranks = range(start, min(cluster.num_devices, start + stride * count), stride)
    assert mapped.group(ranks) == topology.group(ranks)
    other = data.draw(st.integers(0, cluster.num_devices - 1).filter(lambda rank: rank != start))
    assert mapped.point_to_point(start, other) == topology.point_to_point(start, other)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_permutation_sees_the_paths_of_its_devices(data):
    cluster = data.draw(st.sampled_from([*SMALL.values()]))
    order = tuple(data.draw(st.permutations(range(cluster.num_devices))))
    topology, graph = Topology(cluster, order), Topology(cluster).graph()
    a, b = data.draw(st.permutations(range(cluster.num_devices)))[:2]
    ends = ("device", order[a]), ("device", order[b])
    edges = [graph.edges[edge] for edge in pairwise(nx.shortest_path(graph, *ends, weight="hops"))]
    sites = [topology.place(rank).group for rank in range(cluster.num_devices)]
    if sites[a] != sites[b]:
        edges.append(graph.edges[("switch", 0), ("switch", 1)])
    crossings = Counter(zip(sites, sites[abs(a - b) :], strict=False))
    crossing = max(crossings[0, 1], crossings[1, 0])
    share = min(edge["bandwidth_bytes_per_s"] / (edge["shared_by"] or crossing) for edge in edges)
    assert topology.point_to_point(a, b).bandwidth_bytes_per_s == pytest.approx(share)
    assert topology.device(a) == order[a]


@pytest.mark.parametrize("cluster", UNEVEN.values(), ids=UNEVEN)
def test_the_slowest_group_and_border_are_those_of_a_look_at_all(cluster):
    topology, world = Topology(cluster), cluster.num_devices
    for stride, count in ((1, 2), (1, 8), (4, 4), (2, 4), (8, 2)):
        tiles = [
            range(block + offset, block + stride * count, stride)
            for block in range(0, world, stride * count)
            for offset in range(stride)
        ]
        found = topology.slowest_group(stride, count, range(world))
        paths = [topology.group(ranks) for ranks in tiles]
        for of in (lambda each: each.outer, lambda each: each.inner):
            rates = [path.bandwidth_bytes_per_s for path in map(of, paths) if path]
            if rates and (of(found) is found.outer or found.outer is None):
                assert of(found).bandwidth_bytes_per_s == min(rates)
    border = min(topology.point_to_point(rank, rank + 4).bandwidth_bytes_per_s for rank in range(4, 8))
    assert topology.border(4, 1, 2).bandwidth_bytes_per_s == border


def test_a_ring_avoids_a_slow_path_that_its_order_does_not_take():
    """Four nodes in a ring, 0 and 1 badly joined: neighbours in the standard order, opposite each other in this one."""
    cluster = single(devices=2, exceptions={"paths": [{"between": ["only/0", "only/1"], "factor": 0.1}]})
    card = 2 * 25e9 * 0.8 / 2
    standard, opposite = Topology(cluster), Topology(cluster, (0, 1, 4, 5, 2, 3, 6, 7))
    assert standard.group(range(8)).outer.bandwidth_bytes_per_s == pytest.approx(card / 10)
    assert opposite.group(range(8)).outer.bandwidth_bytes_per_s == pytest.approx(card)
    # In an all-to-all every node sends a third to each other one, in any order.
    assert standard.group(range(8)).outer_pairs.bandwidth_bytes_per_s == pytest.approx(3 * card / 10)
    assert opposite.group(range(8)).outer_pairs.bandwidth_bytes_per_s == pytest.approx(3 * card / 10)


def test_two_groups_of_alternating_nodes_cross_the_line_between_them_more_often():
    cluster = two_sites(bandwidth="80 Gbit/s")
    standard, mixed = Topology(cluster), Topology(cluster, [*range(4), *range(8, 12), *range(4, 8), *range(12, 16)])
    assert standard.group(range(16)).outer.bandwidth_bytes_per_s == pytest.approx(10e9 / 4)
    assert mixed.group(range(16)).outer.bandwidth_bytes_per_s == pytest.approx(10e9 / 8)


def test_missing_devices_keep_their_numbers():
    cluster = single(exceptions={"nodes": [{"node": "only/1", "missing": [3]}, {"node": "only/2", "missing": "all"}]})
    topology = Topology(cluster)
    assert cluster.num_devices == topology.num_devices == 11
    assert [topology.device(rank) for rank in range(11)] == [0, 1, 2, 3, 4, 5, 6, 12, 13, 14, 15]
    assert topology.place(7).node == 3
    assert topology.group(range(11)).domains == 3
    graph = topology.graph()
    assert sum(vertex[0] == "device" for vertex in graph) == 11
    with pytest.raises(IndexError):
        topology.place(11)


def test_a_map_that_is_none_is_refused_by_rank():
    cluster = single(nodes=1, exceptions={"nodes": [{"node": "only/0", "missing": [2]}]}, nics=NICS)
    with pytest.raises(InputError) as caught:
        Topology(cluster, (0, 0, 2, 4))
    text = str(caught.value)
    for expected in (
        "rank_map[1] = 0: rank 0 has this device already",
        "rank_map[2] = 2: this device is missing",
        "rank_map[3] = 4: must be a device of the cluster, which are numbered 0 to 3",
    ):
        assert expected in text


def test_all_that_exceptions_have_wrong_is_reported_together():
    exceptions = {
        "nodes": [
            {"node": "onyl/1", "network_factor": 0.5},
            {"node": "only/1", "network_factor": 0.5, "network": "1 GB/s"},
            {"node": "only/1", "fabric_factor": 0.5},
            {"node": "only/2"},
            {"node": "only/3", "missing": [1, 1, 4]},
        ],
        "paths": [
            {"between": ["only/0", "only/0"], "factor": 0.5},
            {"between": ["only/0", "only/9"], "factor": 0.5},
            {"between": ["only/0", "only/1"]},
            {"between": ["only/1", "only/0"], "factor": 0.5},
            {"between": ["only/2", "only/3"], "factor": 0.5, "bandwidth": "1 GB/s"},
        ],
        "matrix": {"rows": [[5, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, -1], [1, 1, 1, 0]]},
    }
    inside = {"rows": [[0, 1], [1, 0]]}
    fabric = {"kind": "nvlink", "bandwidth": "1 GB/s", "latency": 0, "domain_devices": 8, "matrix": inside}
    with pytest.raises(InputError) as caught:
        Topology(single(exceptions=exceptions, fabric=fabric))
    text = str(caught.value)
    for expected in (
        "exceptions.nodes[0].node = 'onyl/1': is not the name of a node",
        "did you mean 'only/1'",
        "exceptions.nodes[1].network_factor = 0.5: a rate is given already",
        "exceptions.nodes[1].network = 1000000000.0: the matrix says already",
        "exceptions.nodes[2].node = 'only/1': stands here already",
        "exceptions.nodes[3] = 'only/2': says nothing of this node",
        "exceptions.nodes[4].missing = 4: the node has devices 0 to 3. Try: 3.",
        "exceptions.nodes[4].missing = [1, 1, 4]: names a device twice",
        "exceptions.paths[0].between = 'only/0': must name two different nodes",
        "exceptions.paths[1].between = 'only/9'",
        "exceptions.paths[2] = ['only/0', 'only/1']: needs a bandwidth or a factor",
        "exceptions.paths[3].between = ['only/1', 'only/0']: these nodes stand here already",
        "exceptions.paths[4].between = ['only/2', 'only/3']: the matrix has a rate for this path already",
        "exceptions.paths[4] = ['only/2', 'only/3']: needs a bandwidth or a factor",
        "exceptions.matrix.rows[0][0] = 5.0: has no path to itself",
        "exceptions.matrix.rows[2] = -1.0: must not be negative",
        "node_groups[0].fabric.matrix.rows = '2 rows of [2]': must have 4 rows of 4 rates",
        "node_groups[0].fabric.matrix: needs the fabric to end with the node",
    ):
        assert expected in text, f"{expected}\n\n{text}"
    with pytest.raises(InputError, match="every device of the cluster is missing"):
        Topology(single(nodes=1, exceptions={"nodes": [{"node": "only/0", "missing": "all"}]}))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_more_bandwidth_is_never_slower(data):
    """Any path of a matrix made faster leaves every group at least as fast."""
    rates = st.integers(1, 40)
    rows = [[0.0] * 4 for _ in range(4)]
    for a, b in combinations(range(4), 2):
        rows[a][b] = rows[b][a] = data.draw(rates)
    a, b = data.draw(st.sampled_from(list(combinations(range(4), 2))))
    faster = [list(row) for row in rows]
    faster[a][b] = faster[b][a] = rows[a][b] + data.draw(rates)
    order = tuple(data.draw(st.permutations(range(8))))
    clusters = (single(devices=2, exceptions={"matrix": {"rows": each}}) for each in (rows, faster))
    before, after = (Topology(cluster, order) for cluster in clusters)
    for ranks in (range(8), range(0, 8, 2), range(0, 8, 4), range(2, 6)):
        slow, fast = before.group(ranks), after.group(ranks)
        for one, other in ((slow.outer, fast.outer), (slow.outer_pairs or slow.outer, fast.outer_pairs or fast.outer)):
            assert one is None or other.bandwidth_bytes_per_s >= one.bandwidth_bytes_per_s


def orders(cluster):
    """Every order of the nodes inside their groups, as rank maps."""
    nodes = Wiring(cluster).nodes
    sites = [[node.devices for node in nodes if node.group == site] for site in range(len(cluster.node_groups))]
    for chosen in product(*(permutations(site) for site in sites)):
        yield tuple(device for site in chosen for devices in site for device in devices)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_order_is_at_least_as_good_as_every_order(data):
    rates, nodes = st.integers(1, 40), data.draw(st.integers(2, 4))
    rows = [[0.0] * nodes for _ in range(nodes)]
    for a, b in combinations(range(nodes), 2):
        rows[a][b] = rows[b][a] = data.draw(rates)
    slow = {"nodes": [{"node": "only/1", "network": 1e9 * data.draw(rates), "fabric_factor": 0.5}]}
    apart = {"paths": [{"between": ["only/0", "only/1"], "factor": 0.1}]}
    exceptions = data.draw(st.sampled_from([{"matrix": {"rows": rows}}, slow, apart, slow | apart]))
    domain = data.draw(st.sampled_from([None, 4]))
    cluster = single(nodes=nodes, devices=2, exceptions=exceptions, fabric=FABRIC | {"domain_devices": domain})
    best, questions = AnyOrder(cluster), [(1, 2), (1, 4), (2, 2), (1, 2 * nodes), (2, nodes), (4, 2)]
    parts = [range(2 * nodes), range(4), range(2, 2 * nodes)]
    for order, ranks in product(orders(cluster), parts):
        if domain and any(order[place] // 4 != order[place + 2] // 4 for place in range(0, 2 * (nodes // 2 * 2), 4)):
            continue  # a domain stays whole
        topology = Topology(cluster, order)
        for stride, count in questions:
            if stride * count > len(ranks) or (stride * count + ranks.start) > 2 * nodes:
                continue
            bound, found = (each.slowest_group(stride, count, ranks) for each in (best, topology))
            for one, other in ((bound.inner, found.inner), (bound.outer, found.outer), (pairs(bound), pairs(found))):
                assert (one is None) == (other is None)
                assert one is None or one.bandwidth_bytes_per_s >= other.bandwidth_bytes_per_s
        border = topology.border(2, 0, 1).bandwidth_bytes_per_s
        assert best.border(2, 0, 1).bandwidth_bytes_per_s >= border


def pairs(group):
    return group.outer_pairs or group.outer


def test_any_order_finds_the_slow_node_that_no_order_avoids():
    """Four nodes, one with half the cards: a ring through all of them is slow, one through two need not be."""
    cluster = single(devices=2, exceptions={"nodes": [{"node": "only/0", "network_factor": 0.5}]})
    best, card = AnyOrder(cluster), 2 * 25e9 * 0.8 / 2
    assert best.slowest_group(2, 4, range(8)).outer.bandwidth_bytes_per_s == pytest.approx(card / 2)
    assert best.slowest_group(2, 2, range(8)).outer.bandwidth_bytes_per_s == pytest.approx(card / 2)
    assert best.slowest_group(2, 2, range(4)).outer.bandwidth_bytes_per_s == pytest.approx(card)
    assert AnyOrder(single()).is_regular
