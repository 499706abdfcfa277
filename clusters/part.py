"""Parts of a cluster: its first devices, as ranks fill them, and what is left where nodes are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .schema import Cluster, Exceptions, NodeException, NodeGroup
from .topology import domain_devices


def devices_used(cluster: Cluster, devices: int) -> tuple[tuple[NodeGroup, int], ...]:
    """How many of the first `devices` devices each node group has: ranks fill group by group."""
    left, used = devices, []
    for group in cluster.node_groups:
        used.append((group, min(left, group.num_devices)))
        left -= used[-1][1]
    return tuple((group, count) for group, count in used if count)


def first_devices(cluster: Cluster, devices: int) -> Cluster:
    """The part that so many devices make: whole nodes in the order of the file, or a part of the first node.

    Raises ValueError where they are neither.
    """
    groups: list[NodeGroup] = []
    for group, used in devices_used(cluster, devices):
        nodes, rest = divmod(used, group.devices_per_node)
        if rest and (nodes or groups or group.devices_per_node % rest):
            raise ValueError(f"{devices} devices are no whole nodes of {cluster.name}")
        change = {"nodes": 1, "devices_per_node": rest} if rest else {"nodes": nodes}
        groups.append(group.model_copy(update=change))
    return _of_groups(cluster, groups)


def without_nodes(cluster: Cluster, lost: Mapping[str, int]) -> Cluster | None:
    """What is left when some nodes of some groups, by name, are gone; None where nothing is."""
    left = [(group, group.nodes - lost.get(group.name, 0)) for group in cluster.node_groups]
    groups = [group.model_copy(update={"nodes": nodes}) for group, nodes in left if nodes > 0]
    return _of_groups(cluster, groups) if groups else None


SIGNIFICANT_BITS = 4
"""Of a number of nodes that is worth a try: up to 16 nodes all of them, then neighbours at most an eighth apart."""


def part_sizes(cluster: Cluster, significant_bits: int = SIGNIFICANT_BITS) -> list[int]:
    """Numbers of devices that whole nodes make, ascending; with one significant bit powers of two of nodes.

    Larger parts than a fast domain are of whole domains, and node groups are filled in the order of the file.
    """
    sizes, before = [], 0
    for group in cluster.node_groups:
        domain = min(domain_devices(group), group.num_devices)
        inside = _round(domain // group.devices_per_node, significant_bits)
        beyond = _round(group.num_devices // domain, significant_bits)
        found = {nodes * group.devices_per_node for nodes in inside} | {domains * domain for domains in beyond}
        sizes += [before + size for size in sorted(found | {group.num_devices})]
        before += group.num_devices
    return sizes


def _round(most: int, significant_bits: int) -> list[int]:
    """Whole numbers up to `most` that so many binary digits write, zeros behind them apart; and `most` itself."""
    found = {digits << zeros for zeros in range(most.bit_length()) for digits in range(1, 1 << significant_bits)}
    return sorted({number for number in found if number <= most} | {most})


def _of_groups(cluster: Cluster, groups: list[NodeGroup]) -> Cluster:
    """The cluster with other groups, and without links to those that are gone."""
    names = {group.name for group in groups}
    links = tuple(link for link in cluster.links if names.issuperset(link.between))
    exceptions = _remaining(cluster, groups)
    return cluster.model_copy(update={"node_groups": tuple(groups), "links": links, "exceptions": exceptions})


def _remaining(cluster: Cluster, groups: Sequence[NodeGroup]) -> Exceptions:
    """Exceptions of the nodes that are left: the first of each group."""
    names = [f"{group.name}/{number}" for group in cluster.node_groups for number in range(group.nodes)]
    left = {f"{each.name}/{number}": each.devices_per_node for each in groups for number in range(each.nodes)}
    given = cluster.exceptions
    nodes = tuple(_of_devices(each, left[each.node]) for each in given.nodes if each.node in left)
    paths = tuple(each for each in given.paths if left.keys() >= set(each.between))
    matrix, kept = given.matrix, [place for place, name in enumerate(names) if name in left]
    if matrix is not None:
        rows = tuple(tuple(matrix.rows[a][b] for b in kept) for a in kept)
        matrix = matrix.model_copy(update={"rows": rows}) if len(kept) > 1 else None
    return Exceptions(nodes=tuple(each for each in nodes if each is not None), paths=paths, matrix=matrix)


def _of_devices(exception: NodeException, devices: int) -> NodeException | None:
    """The same of a node of which only the first devices are left; None where nothing remains to be said."""
    if exception.missing == "all":
        return exception
    missing = tuple(device for device in exception.missing if device < devices)
    says = (missing, exception.network_bytes_per_s, exception.network_factor, exception.fabric_factor)
    return exception.model_copy(update={"missing": missing}) if any(says) else None
