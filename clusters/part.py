"""Parts of a cluster: its first devices, as ranks fill them, and what is left where nodes are lost.

Where nothing distinguishes the nodes of a group, a part has fewer of them. Where exceptions name nodes, all keep their
numbers, and those that are not in a part are missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import accumulate

from .schema import Cluster, Exceptions, NodeException, NodeGroup
from .topology import domain_devices

SIGNIFICANT_BITS = 4
"""Of a number of nodes that is worth a try: up to 16 nodes all of them, then neighbours at most an eighth apart."""


def first_devices(cluster: Cluster, devices: int) -> Cluster:
    """The part that so many devices make: whole nodes in the order of the file, or a part of the first node.

    Raises ValueError where they are neither.
    """
    if not _uniform(cluster):
        return _first_nodes(cluster, devices)
    groups: list[NodeGroup] = []
    left = devices
    for group in cluster.node_groups:
        used = min(left, group.num_devices)
        left -= used
        nodes, rest = divmod(used, group.devices_per_node)
        if rest and (nodes or groups or group.devices_per_node % rest):
            raise ValueError(f"{devices} devices are no whole nodes of {cluster.name}")
        if used:
            change = {"nodes": 1, "devices_per_node": rest} if rest else {"nodes": nodes}
            groups.append(group.model_copy(update=change))
    return _of_groups(cluster, groups)


def without_nodes(cluster: Cluster, lost: Mapping[str, int]) -> Cluster | None:
    """What is left when the last nodes of some groups, by name, are gone; None where nothing is."""
    if not _uniform(cluster):
        there = _nodes(cluster)
        gone = [name for group, count in lost.items() for name in _of_group(there, group)[-count:]]
        return _missing(cluster, gone) if len(gone) < len(there) else None
    left = [(group, group.nodes - lost.get(group.name, 0)) for group in cluster.node_groups]
    groups = [group.model_copy(update={"nodes": nodes}) for group, nodes in left if nodes > 0]
    return _of_groups(cluster, groups) if groups else None


def nodes_of(cluster: Cluster) -> dict[str, int]:
    """Nodes of each group that have a device which can be used."""
    there = _nodes(cluster)
    return {group.name: len(_of_group(there, group.name)) for group in cluster.node_groups}


def node_sizes(cluster: Cluster) -> list[int]:
    """Devices of the first 1, 2, 3, ... nodes, ascending."""
    return list(accumulate(_nodes(cluster).values()))


def rounded(most: int, significant_bits: int = SIGNIFICANT_BITS) -> list[int]:
    """Whole numbers up to `most` that so many binary digits write, zeros behind them apart; and `most` itself."""
    found = {digits << zeros for zeros in range(most.bit_length()) for digits in range(1, 1 << significant_bits)}
    return sorted({number for number in found if number <= most} | {most})


def part_sizes(cluster: Cluster, significant_bits: int = SIGNIFICANT_BITS) -> list[int]:
    """Numbers of devices that whole nodes make, ascending; with one significant bit powers of two of nodes.

    Larger parts than a fast domain are of whole domains, and node groups are filled in the order of the file.
    """
    if not _uniform(cluster):
        sums = node_sizes(cluster)
        return [sums[count - 1] for count in rounded(len(sums), significant_bits)]
    sizes, before = [], 0
    for group in cluster.node_groups:
        domain = min(domain_devices(group), group.num_devices)
        inside = rounded(domain // group.devices_per_node, significant_bits)
        beyond = rounded(group.num_devices // domain, significant_bits)
        found = {nodes * group.devices_per_node for nodes in inside} | {domains * domain for domains in beyond}
        sizes += [before + size for size in sorted(found | {group.num_devices})]
        before += group.num_devices
    return sizes


def _uniform(cluster: Cluster) -> bool:
    return cluster.exceptions == Exceptions()


def _nodes(cluster: Cluster) -> dict[str, int]:
    """Devices that can be used, by the name of the node; nodes without any are left out."""
    missing, first, found = cluster.missing_devices, 0, {}
    for group in cluster.node_groups:
        for number in range(group.nodes):
            here = range(first, first + group.devices_per_node)
            first += group.devices_per_node
            found[f"{group.name}/{number}"] = len(here) - len(missing.intersection(here))
    return {name: devices for name, devices in found.items() if devices}


def _of_group(nodes: Collection[str], group: str) -> list[str]:
    return [name for name in nodes if name.rpartition("/")[0] == group]


def _first_nodes(cluster: Cluster, devices: int) -> Cluster:
    there, sums = _nodes(cluster), node_sizes(cluster)
    if devices not in sums:
        raise ValueError(f"{devices} devices are no whole nodes of {cluster.name}")
    return _missing(cluster, list(there)[sums.index(devices) + 1 :])


def _missing(cluster: Cluster, gone: Collection[str]) -> Cluster:
    """The cluster without the devices of some nodes."""
    others = [each for each in cluster.exceptions.nodes if each.node not in gone]
    nodes = (*others, *(NodeException.model_validate({"node": name, "missing": "all"}) for name in gone))
    return cluster.model_copy(update={"exceptions": cluster.exceptions.model_copy(update={"nodes": nodes})})


def _of_groups(cluster: Cluster, groups: list[NodeGroup]) -> Cluster:
    """The cluster with other groups, and without links to those that are gone."""
    names = {group.name for group in groups}
    links = tuple(link for link in cluster.links if names.issuperset(link.between))
    return cluster.model_copy(update={"node_groups": tuple(groups), "links": links})
