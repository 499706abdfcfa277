"""Topology: arithmetic against the graph, and against flows counted one by one."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.clusters import Topology, load_cluster
from meshwright.errors import InputError

from .machines import FABRIC, SMALL, cluster_of, node_group, single, two_sites


def walk(graph, a, b):
    path = nx.shortest_path(graph, ("device", a), ("device", b), weight="hops")
    return list(pairwise(path))


@pytest.mark.parametrize("cluster", SMALL.values(), ids=SMALL)
def test_graph_agrees_on_every_pair(cluster):
    topology, graph = Topology(cluster), cluster_graph(cluster)
    for a in range(topology.num_devices):
        for b in range(topology.num_devices):
            if a == b:
                continue
            edges = [(edge, graph.edges[edge]) for edge in walk(graph, a, b)]
            if spans_sites(cluster, a, b):
                edges += [(link, graph.edges[link]) for link in cross_link(cluster, a, b)]
            crossing = sum(site(cluster, r) != site(cluster, r + abs(a - b)) for r in shifted(topology, abs(a - b)))
            share = min(e["bandwidth_bytes_per_s"] / (e["shared_by"] or crossing) for _, e in edges)
            path = topology.point_to_point(a, b)
            assert path.bandwidth_bytes_per_s == pytest.approx(share)
            assert path.latency_s == max(e["latency_s"] for _, e in edges)


def spans_sites(cluster, a, b):
    return site(cluster, a) != site(cluster, b)


def cross_link(cluster, a, b):
    """A path between sites takes the line between them, known apart or not."""
    return [(("switch", 0), ("switch", 1))] if spans_sites(cluster, a, b) else []


def cluster_graph(cluster):
    return Topology(cluster).graph()


def site(cluster, rank):
    return int(rank >= cluster.node_groups[0].num_devices)


def shifted(topology, distance):
    return range(topology.num_devices - distance)


@pytest.mark.parametrize("cluster", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_group_of_a_mesh_agrees_with_counted_flows(cluster, tp):
    """dp groups at stride tp, all at once: each edge carries what the rings put on it."""
    topology, graph = Topology(cluster), cluster_graph(cluster)
    groups = [range(t, topology.num_devices, tp) for t in range(tp)]
    paths = topology.group(groups[0])
    load = {frozenset(edge): 0 for edge in graph.edges if graph.edges[edge]["shared_by"] == 0}
    narrowest = float("inf")
    for ring in (ring for group in groups for ring in rings(topology, group)):
        for a, b in zip(ring, ring[1:] + ring[:1], strict=True):
            for edge in walk(graph, a, b) if a < b else []:
                found = graph.edges[edge]
                if found["shared_by"]:
                    narrowest = min(narrowest, found["bandwidth_bytes_per_s"] / found["shared_by"])
                else:
                    load[frozenset(edge)] += 1
    for edge, flows in load.items():
        narrowest = min(narrowest, graph.edges[tuple(edge)]["bandwidth_bytes_per_s"] / flows)
    assert paths.outer is not None
    assert paths.outer.bandwidth_bytes_per_s == pytest.approx(narrowest)


def rings(topology, group):
    """One ring over the domains for each member of a domain."""
    members = {}
    for rank in group:
        place = topology.place(rank)
        members.setdefault((place.group, place.domain), []).append(rank)
    return [list(ring) for ring in zip(*members.values(), strict=True)]


def test_numbers_by_hand():
    topology = Topology(single())
    inside = topology.group(range(4))
    assert inside.inner is not None
    assert inside.outer is None
    assert inside.inner.bandwidth_bytes_per_s == pytest.approx(300e9)  # 400 GB/s x 0.75
    across = topology.group(range(8))
    assert (across.size, across.domains, across.per_domain) == (8, 2, 4)
    assert across.outer is not None
    assert across.outer.bandwidth_bytes_per_s == pytest.approx(10e9)  # 2 x 25 GB/s x 0.8 / 4 devices
    assert topology.group([0, 4, 8]).inner is None
    assert topology.group([5]).inner is None


def test_link_between_sites_is_shared_by_the_rings_that_cross_it():
    topology = Topology(two_sites(bandwidth="80 Gbit/s"))
    whole = topology.group(range(16)).outer
    assert whole is not None
    assert whole.link == "ethernet"
    assert whole.bandwidth_bytes_per_s == pytest.approx(10e9 / 4)
    assert whole.latency_s == pytest.approx(1e-3)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_ranges_lists_and_shuffled_ranks_answer_alike(data):
    topology = Topology(data.draw(st.sampled_from(list(SMALL.values()))))
    start = data.draw(st.integers(0, topology.num_devices - 1))
    ranks = range(start, data.draw(st.integers(start + 1, topology.num_devices)), data.draw(st.integers(1, 8)))
    places = [topology.place(rank) for rank in ranks]
    answer = topology.group(ranks)
    assert answer.domains == len({(place.group, place.domain) for place in places})
    assert answer == topology.group(list(ranks))
    assert answer == topology.group(data.draw(st.permutations(list(ranks))))


def test_place_counts_through_groups():
    topology = Topology(two_sites())
    place = topology.place(13)
    assert (place.group, place.node, place.local) == (1, 1, 1)
    with pytest.raises(IndexError):
        topology.place(16)


def test_more_bandwidth_is_never_slower():
    slow, fast = Topology(two_sites(bandwidth="10 Gbit/s")), Topology(two_sites(bandwidth="20 Gbit/s"))
    for ranks in (range(16), range(0, 16, 2), range(3, 13, 3)):
        narrow, wide = slow.group(ranks).outer, fast.group(ranks).outer
        assert narrow is not None
        assert wide is not None
        assert wide.bandwidth_bytes_per_s >= narrow.bandwidth_bytes_per_s


def test_all_that_is_not_joined_is_reported_together():
    groups = [
        node_group("a", 2, 4, nics=None),
        node_group("b", 1, 4, fabric=FABRIC | {"domain_devices": 6}),
        node_group("c", 1, 4),
    ]
    link = {"between": ["a", "bb"], "kind": "ethernet", "bandwidth": "10 Gbit/s", "latency": "1 ms"}
    with pytest.raises(InputError) as caught:
        Topology(cluster_of(*groups, links=[link]))
    text = str(caught.value)
    for expected in (
        "node_groups[0].nics",
        "node_groups[1].fabric.domain_devices = 6",
        "links[0].between = 'bb'",
        "did you mean 'b'",
        "'a' and 'b'",
        "'a' and 'c'",
        "'b' and 'c'",
    ):
        assert expected in text


def test_sixteen_thousand_devices_take_no_graph():
    topology = Topology(load_cluster("dgx-h100:2048"))
    assert topology.group(range(0, 16384, 8)).domains == 2048
    assert topology.group(range(16384)).per_domain == 8


def test_a_mesh_without_a_switch_gives_few_devices_few_links():
    """DGX-1: one link of 25 GB/s between most pairs, four of the six links of a device inside its face of the cube."""
    topology = Topology(load_cluster("dgx-1-v100:2"))
    of_group = {count: topology.group(range(count)).inner.bandwidth_bytes_per_s for count in (2, 4, 8)}
    assert of_group == pytest.approx({2: 0.8 * 25e9, 4: 0.8 * 100e9, 8: 0.8 * 150e9})
    assert topology.point_to_point(0, 1).bandwidth_bytes_per_s == pytest.approx(0.8 * 25e9)
    assert topology.group(range(0, 16, 4)).inner.bandwidth_bytes_per_s == pytest.approx(0.8 * 25e9)  # two a node
    assert topology.group(range(16)).inner.bandwidth_bytes_per_s == pytest.approx(0.8 * 150e9)
