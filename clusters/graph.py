"""The cluster spelt out as a networkx graph, for explanations and as a second opinion in tests.

Nodes: ("device", rank), ("domain", i), ("nics", node), ("switch", group). Every edge
has `bandwidth_bytes_per_s` (sustained, of the whole edge), `shared_by` (devices that use it at
once; 0 where traffic decides), `latency_s`, `link` and `hops`, the weight for routing: a network
card is never on the way between two devices of one domain. What is known of a pair of nodes, or of devices of
a node, is an edge between their NICs, or between the devices, which routing prefers to the switch.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from .paths import fabric_path
from .schema import Cluster
from .wiring import Node, Wiring

if TYPE_CHECKING:
    import networkx as nx

_DIRECT = 1.5
"""Hops of an edge between two parts that are known apart: less than over the switch, more than half of that."""


def build(cluster: Cluster) -> nx.Graph[Any]:
    """One vertex for each device that can be used, each domain, each node's NICs and each group's switch."""
    import networkx as nx

    graph: nx.Graph[Any] = nx.Graph(name=cluster.name)
    wiring = Wiring(cluster)
    for index, node in enumerate(wiring.nodes):
        _add_fabric(graph, wiring, node, index)
        _add_network(graph, wiring, node, index)
    index_of = {group.name: index for index, group in enumerate(cluster.node_groups)}
    for link in cluster.links:
        a, b = (("switch", index_of[name]) for name in link.between)
        _join(graph, a, b, link.bandwidth_bytes_per_s, 0, link.latency_s, link.kind)
    for a_node, b_node in wiring.pairs:
        path, shared_by = wiring.between(a_node, b_node), wiring.devices(a_node, b_node)
        whole, card, other = shared_by * path.bandwidth_bytes_per_s, ("nics", a_node), ("nics", b_node)
        _join(graph, card, other, whole, shared_by, path.latency_s, path.link, hops=_DIRECT)
    return graph


def _add_fabric(graph: nx.Graph[Any], wiring: Wiring, node: Node, index: int) -> None:
    group = wiring.cluster.node_groups[node.group]
    path, matrix = fabric_path(group, group.devices_per_node), group.fabric.matrix
    sustained = node.fabric_factor * path.bandwidth_bytes_per_s
    for device in node.devices:
        _join(graph, ("device", device), ("domain", node.domain), sustained, 1, path.latency_s, path.link)
    for a, b in combinations(node.devices, 2) if matrix else ():
        first = wiring.first_device[index]
        if matrix and (rate := matrix.scale_bytes_per_s * matrix.slower(a - first, b - first)):
            ends = ("device", a), ("device", b)
            _join(graph, *ends, node.fabric_factor * rate, 1, path.latency_s, path.link, hops=_DIRECT)


def _add_network(graph: nx.Graph[Any], wiring: Wiring, node: Node, index: int) -> None:
    path, group = node.network, wiring.cluster.node_groups[node.group]
    if path is None:
        return
    count = group.devices_per_node
    sustained = count * path.bandwidth_bytes_per_s
    card = ("nics", index)
    for device in node.devices:
        _join(graph, ("device", device), card, sustained, count, path.latency_s, path.link, hops=2)
    _join(graph, card, ("switch", node.group), sustained, count, path.latency_s, path.link)


def _join(
    graph: nx.Graph[Any],
    a: tuple[object, ...],
    b: tuple[object, ...],
    bandwidth_bytes_per_s: float,
    shared_by: int,
    latency_s: float,
    link: str,
    hops: float = 1,
) -> None:
    graph.add_edge(
        a,
        b,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        shared_by=shared_by,
        latency_s=latency_s,
        link=link,
        hops=hops,
    )
