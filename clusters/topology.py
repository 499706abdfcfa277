"""Topology: what a group of devices sees of the cluster, by arithmetic; and the cluster as a graph.

Planning asks for contiguous and strided groups on tens of thousands of devices, so answers follow
from (node group, domain, node) of a rank. `graph()` spells the same cluster out in networkx, for
explanations; a test holds both to the same answers.

Bandwidths are what one device sustains while every device of its node communicates likewise:

- inside a domain: fabric bandwidth x efficiency; of a mesh without a switch, the bandwidth of a group of that size;
- between domains: all NICs of the node x efficiency / devices per node / oversubscription;
- between node groups: also the link's bandwidth / the flows that cross it at once.

Latency is the worst on the path: the fabric's, the NIC's and the link's are all quoted end to end.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from .check import check
from .schema import Cluster, GroupLink, NodeGroup

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True)
class Path:
    """What one device can send and receive at once inside a group, at the group's bottleneck."""

    bandwidth_bytes_per_s: float  # sustained: efficiency of the link is already in it
    latency_s: float
    link: str  # for people: "nvswitch", "infiniband", ...
    reduce_scatter: float = 1.0  # time of a reduce-scatter over that of an all-gather
    is_network: bool = False  # between domains


@dataclass(frozen=True, slots=True)
class GroupPaths:
    """How the members of one process group are joined: inside a domain, and between domains."""

    size: int
    domains: int  # NVLink domains (nodes) that the group touches
    inner: Path | None  # None: one member a domain
    outer: Path | None  # None: one domain

    @property
    def per_domain(self) -> int:
        return self.size // self.domains


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank runs. `domain` and `node` count inside the node group, `local` inside the node."""

    group: int
    domain: int
    node: int
    local: int


class Topology:
    """A checked cluster that answers what joins its devices. Raises InputError if parts are not joined."""

    def __init__(self, cluster: Cluster) -> None:
        check(cluster, f"cluster {cluster.name}")
        self.cluster = cluster
        groups = cluster.node_groups
        self._first = (0, *accumulate(group.num_devices for group in groups))
        self._domain = tuple(domain_devices(group) for group in groups)
        self._outer = tuple(_network_path(group) for group in groups)
        names = {group.name: index for index, group in enumerate(groups)}
        self._links = {frozenset(names[name] for name in link.between): link for link in cluster.links}
        self._known: dict[range | tuple[int, ...], GroupPaths] = {}

    @property
    def num_devices(self) -> int:
        return self._first[-1]

    def place(self, rank: int) -> Place:
        """Node group, domain, node and local index of a rank. Raises IndexError outside the cluster."""
        self._inside(rank, rank)
        group = bisect_right(self._first, rank) - 1
        index = rank - self._first[group]
        node, local = divmod(index, self.cluster.node_groups[group].devices_per_node)
        return Place(group, index // self._domain[group], node, local)

    def group(self, ranks: Sequence[int]) -> GroupPaths:
        """Paths of one process group. A `range`, or ranks at equal steps, costs the same for any size."""
        key = _as_range(ranks)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._group(key if isinstance(key, range) else tuple(sorted(key)))
        return known

    def point_to_point(self, a: int, b: int) -> Path:
        """The path between two ranks, while all other pairs at the same distance use theirs.

        Such pairs are what a pipeline makes: rank r sends to r + |a - b|, all r at once.
        """
        here, there = self.place(a), self.place(b)
        if here.group == there.group:
            return self._fabric(here.group, 2) if here.domain == there.domain else self._network(here.group)
        link = self._link_path(here.group, there.group, self._pairs(here.group, there.group, abs(a - b)))
        return _worst([self._network(here.group), self._network(there.group), link])

    def graph(self) -> nx.Graph[Any]:
        """The cluster as a graph: devices, domains, NICs and switches; see `clusters/graph.py`."""
        from .graph import build

        return build(self.cluster)

    def _group(self, ranks: Sequence[int]) -> GroupPaths:
        if not ranks:
            raise ValueError("a process group has at least one rank")
        self._inside(ranks[0], ranks[-1])
        parts = self._split(ranks)
        members = {group: len(part) for group, part in parts}
        domains = {group: _count_domains(part, self._first[group], self._domain[group]) for group, part in parts}
        total = sum(domains.values())
        inside = {group: math.ceil(members[group] / domains[group]) for group in members}
        inner = [self._fabric(group, count) for group, count in inside.items() if count > 1]
        outer = [self._network(group) for group in members] if total > 1 else []
        outer += self._crossings(ranks, tuple(members), total)
        return GroupPaths(len(ranks), total, _worst(inner) if inner else None, _worst(outer) if outer else None)

    def _split(self, ranks: Sequence[int]) -> list[tuple[int, Sequence[int]]]:
        """The part of (ascending) ranks that lies in each node group."""
        parts = []
        for group, (first, end) in enumerate(pairwise(self._first)):
            part = ranks[bisect_left(ranks, first) : bisect_left(ranks, end)]
            if part:
                parts.append((group, part))
        return parts

    def _crossings(self, ranks: Sequence[int], groups: tuple[int, ...], domains: int) -> list[Path]:
        """The links that a ring over the node groups takes.

        Ranks at stride s leave room for s groups of the same shape side by side; each drives one ring
        per member of a domain, and each ring crosses a link once in each direction.
        """
        if len(groups) < 2:
            return []
        side_by_side = (ranks[-1] - ranks[0]) / (len(ranks) - 1)
        flows = max(1, round(side_by_side * len(ranks) / domains))
        ring = {frozenset(pair) for pair in pairwise((*groups, groups[0]))}
        return [self._link_path(min(pair), max(pair), flows) for pair in sorted(ring, key=sorted)]

    def _pairs(self, a: int, b: int, distance: int) -> int:
        """Pairs (r, r + distance) with one end in each of two node groups."""
        low, high = sorted((a, b))
        first = max(self._first[low], self._first[high] - distance)
        return min(self._first[low + 1], self._first[high + 1] - distance) - first

    def _link_path(self, a: int, b: int, flows: int) -> Path:
        link: GroupLink = self._links[frozenset((a, b))]
        shared_by = min(flows, *(self.cluster.node_groups[group].num_devices for group in (a, b)))
        return Path(link.bandwidth_bytes_per_s / shared_by, link.latency_s, link.kind, is_network=True)

    def _network(self, group: int) -> Path:
        path = self._outer[group]
        assert path is not None, "check() asks for NICs wherever there is more than one domain"
        return path

    def _fabric(self, group: int, members: int) -> Path:
        """Inside a domain of a node group, among so many of its devices."""
        return _fabric_path(self.cluster.node_groups[group], members)

    def _inside(self, first: int, last: int) -> None:
        if first < 0 or last >= self.num_devices:
            raise IndexError(f"ranks {first}..{last} of a cluster of {self.num_devices} devices")


def domain_devices(group: NodeGroup) -> int:
    """Devices that the fabric joins: those of a node unless the file says more."""
    return group.fabric.domain_devices or group.devices_per_node


def _fabric_path(group: NodeGroup, members: int) -> Path:
    fabric = group.fabric
    shared = [size for size in fabric.group_bandwidth_bytes_per_s if size >= members]
    whole = fabric.group_bandwidth_bytes_per_s[min(shared)] if shared else fabric.bandwidth_bytes_per_s
    bandwidth = whole * fabric.efficiency
    return Path(bandwidth, fabric.latency_s, fabric.kind, fabric.reduce_scatter)


def _network_path(group: NodeGroup) -> Path | None:
    nics = group.nics
    if nics is None:
        return None
    node = nics.count * nics.rate_bytes_per_s * nics.efficiency
    bandwidth = node / group.devices_per_node / group.oversubscription
    return Path(bandwidth, nics.latency_s, nics.kind, is_network=True)


def _worst(paths: Iterable[Path]) -> Path:
    """The narrowest path, with the longest latency of all."""
    paths = list(paths)
    narrow = min(paths, key=lambda path: path.bandwidth_bytes_per_s)
    latency_s, slowest = max(path.latency_s for path in paths), max(path.reduce_scatter for path in paths)
    return Path(narrow.bandwidth_bytes_per_s, latency_s, narrow.link, slowest, narrow.is_network)


def _as_range(ranks: Sequence[int]) -> range | tuple[int, ...]:
    """An ascending range where the ranks are one (its hash does not grow with its length)."""
    if isinstance(ranks, range) and ranks.step > 0:
        return ranks
    if len(ranks) == 1:
        return range(ranks[0], ranks[0] + 1)
    if len(ranks) > 1 and (step := ranks[1] - ranks[0]) > 0:
        even = range(ranks[0], ranks[-1] + 1, step)
        if len(even) == len(ranks) and all(a == b for a, b in zip(even, ranks, strict=True)):
            return even
    return tuple(ranks)


def _count_domains(ranks: Sequence[int], first: int, size: int) -> int:
    if isinstance(ranks, range) and ranks.step <= size:  # no domain between its ends is skipped
        return (ranks[-1] - first) // size - (ranks[0] - first) // size + 1
    if isinstance(ranks, range):
        return len(ranks)
    return len({(rank - first) // size for rank in ranks})
