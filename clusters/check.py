"""What a cluster file must satisfy as a whole, beyond each field: its parts are joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from ..errors import InputError, Problem, did_you_mean
from .exceptions_check import exception_problems
from .schema import Cluster, NodeGroup


def check(cluster: Cluster, source: str) -> None:
    """Raises InputError with every way in which devices of the cluster are not joined."""
    problems = [*_names(cluster), *_fabrics(cluster), *_networks(cluster), *_links(cluster), *_missing_links(cluster)]
    problems += exception_problems(cluster)
    if problems:
        raise InputError(source, problems)


def check_rank_map(cluster: Cluster, rank_map: Sequence[int]) -> None:
    """Raises InputError where it names a device twice, or one that the cluster does not have."""
    if problems := [*rank_map_problems(cluster, rank_map)]:
        raise InputError("rank map", problems)


def rank_map_problems(cluster: Cluster, rank_map: Sequence[int]) -> Iterator[Problem]:
    """In the words of a plan file. An empty map is the standard order."""
    places, gone = sum(group.num_devices for group in cluster.node_groups), cluster.missing_devices
    seen: set[int] = set()
    for rank, device in enumerate(rank_map):
        field = f"rank_map[{rank}]"
        if not 0 <= device < places:
            yield Problem(field, device, f"must be a device of the cluster, which are numbered 0 to {places - 1}")
        elif device in gone:
            yield Problem(field, device, "this device is missing, say the exceptions of the cluster")
        elif device in seen:
            free = next((each for each in range(places) if each not in gone and each not in set(rank_map)), None)
            rule = f"rank {rank_map.index(device)} has this device already"
            yield Problem(field, device, rule, "" if free is None else str(free))
        seen.add(device)


def _names(cluster: Cluster) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, group in enumerate(cluster.node_groups):
        if group.name in seen:
            yield Problem(f"node_groups[{index}].name", group.name, "each node group needs a name of its own")
        seen.add(group.name)


def _fabrics(cluster: Cluster) -> Iterator[Problem]:
    for index, group in enumerate(cluster.node_groups):
        size, node = group.fabric.domain_devices, group.devices_per_node
        if size is not None and size % node:
            field, nearest = f"node_groups[{index}].fabric.domain_devices", max(1, round(size / node)) * node
            yield Problem(field, size, f"must be a multiple of devices_per_node = {node}", str(nearest))


def _networks(cluster: Cluster) -> Iterator[Problem]:
    for index, group in enumerate(cluster.node_groups):
        if group.nics is None and (len(cluster.node_groups) > 1 or _domains(group) > 1):
            rule = "network cards are required where more than one node (or NVLink domain) must communicate"
            yield Problem(f"node_groups[{index}].nics", None, rule, "nics: {kind, count, rate, latency}")


def _domains(group: NodeGroup) -> int:
    return -(-group.num_devices // (group.fabric.domain_devices or group.devices_per_node))


def _links(cluster: Cluster) -> Iterator[Problem]:
    names = {group.name for group in cluster.node_groups}
    seen: set[frozenset[str]] = set()
    for index, link in enumerate(cluster.links):
        field, pair = f"links[{index}].between", frozenset(link.between)
        for unknown in sorted(pair - names):
            yield Problem(field, unknown, "is not the name of a node group", did_you_mean(unknown, names))
        if len(pair) == 1:
            yield Problem(field, link.between[0], "must name two different node groups")
        if pair in seen:
            yield Problem(field, list(link.between), "these groups are already linked")
        seen.add(pair)


def _missing_links(cluster: Cluster) -> Iterator[Problem]:
    linked = {frozenset(link.between) for link in cluster.links}
    names = dict.fromkeys(group.name for group in cluster.node_groups)
    for a, b in combinations(names, 2):
        if frozenset((a, b)) not in linked:
            fix = f"links: [{{between: [{a}, {b}], kind: ..., bandwidth: ..., latency: ...}}]"
            yield Problem("links", None, f"no link between node groups {a!r} and {b!r}", fix)
