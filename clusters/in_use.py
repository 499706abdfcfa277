"""In use: which devices ranks may lie on, where some of a cluster are missing.

A mesh is a product of degrees, so that it asks for numbers of devices that divide well, and for nodes that are alike:
collectives run hierarchically with as many members in each node. Of each node group we take so many devices from every
node that has them: all (nodes with a missing device stand aside), or fewer, of more nodes. What is left stays idle.
"""

from __future__ import annotations

from collections.abc import Iterator

from .paths import domain_devices
from .schema import Cluster
from .wiring import Node, Wiring


def choices(cluster: Cluster) -> list[tuple[int, ...]]:
    """Devices in their order, the most devices first; one empty choice where none is missing."""
    if not cluster.missing_devices:
        return [()]
    wiring = Wiring(cluster)
    most = max(group.devices_per_node for group in cluster.node_groups)
    found: dict[int, tuple[int, ...]] = {}
    for count in range(most, 0, -1):  # of as many devices in all, those of fewer nodes
        devices = tuple(_taken(wiring, count))
        if devices:
            found.setdefault(len(devices), devices)
    return [found[size] for size in sorted(found, reverse=True)]


def _taken(wiring: Wiring, count: int) -> Iterator[int]:
    """The first devices, `count` at most, of every node that has so many as its group gives."""
    for index, group in enumerate(wiring.cluster.node_groups):
        wanted = min(count, group.devices_per_node)
        nodes = [node for node in wiring.nodes if node.group == index and len(node.devices) >= wanted]
        per_domain = domain_devices(group) // group.devices_per_node
        for node in nodes if per_domain == 1 else _whole_domains(nodes, per_domain):
            yield from node.devices[:wanted]


def _whole_domains(nodes: list[Node], size: int) -> list[Node]:
    """Nodes of domains that lack none."""
    counts: dict[int, int] = {}
    for node in nodes:
        counts[node.domain] = counts.get(node.domain, 0) + 1
    whole = [node for node in nodes if counts[node.domain] == size]
    return whole or nodes
