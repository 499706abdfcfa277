"""Paths: what joins the members of a process group, and what a node group's own links give one device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .link_costs import MeasuredCosts, joined, measured_costs
from .schema import NodeGroup


@dataclass(frozen=True, slots=True)
class Path:
    """What one device can send and receive at once inside a group, at the group's bottleneck."""

    bandwidth_bytes_per_s: float  # sustained: efficiency of the link is already in it
    latency_s: float
    link: str  # for people: "nvswitch", "infiniband", ...
    reduce_scatter: float = 1.0  # time of a reduce-scatter over that of an all-gather
    is_network: bool = False  # between domains
    costs: tuple[MeasuredCosts, ...] = ()  # of operations over it, where they were measured


@dataclass(frozen=True, slots=True)
class GroupPaths:
    """How the members of one process group are joined: inside a domain, and between domains. `outer` is that of a ring
    through the domains in the order of the ranks; `outer_pairs` is what each device has for all others at once, where
    that is another."""

    size: int
    domains: int  # NVLink domains (nodes) that the group touches
    inner: Path | None  # None: one member a domain
    outer: Path | None  # None: one domain
    outer_pairs: Path | None = None  # None: as `outer`

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


def domain_devices(group: NodeGroup) -> int:
    """Devices that the fabric joins: those of a node unless the file says more."""
    return group.fabric.domain_devices or group.devices_per_node


def fabric_path(group: NodeGroup, members: int) -> Path:
    """Inside a domain of a node group, among so many of its devices."""
    fabric = group.fabric
    shared = [size for size in fabric.group_bandwidth_bytes_per_s if size >= members]
    whole = fabric.group_bandwidth_bytes_per_s[min(shared)] if shared else fabric.bandwidth_bytes_per_s
    bandwidth = whole * fabric.efficiency
    return Path(bandwidth, fabric.latency_s, fabric.kind, fabric.reduce_scatter, costs=measured_costs(fabric.costs))


def network_path(group: NodeGroup) -> Path | None:
    """Between domains: one device's share of its node's cards; None without any."""
    nics = group.nics
    if nics is None:
        return None
    node = nics.count * nics.rate_bytes_per_s * nics.efficiency
    bandwidth = node / group.devices_per_node / group.oversubscription
    return Path(bandwidth, nics.latency_s, nics.kind, is_network=True, costs=measured_costs(nics.costs))


def worst(paths: Iterable[Path]) -> Path:
    """The narrowest path, with the longest latency of all, and the costs of all."""
    paths = list(paths)
    narrow = min(paths, key=lambda path: path.bandwidth_bytes_per_s)
    latency_s, slowest = max(path.latency_s for path in paths), max(path.reduce_scatter for path in paths)
    costs = joined(path.costs for path in paths)
    return Path(narrow.bandwidth_bytes_per_s, latency_s, narrow.link, slowest, narrow.is_network, costs)


def narrowest(group: GroupPaths) -> tuple[float, float]:
    """Orders groups of one shape: the slowest first."""
    paths = [path for path in (group.outer, group.inner) if path is not None]
    return min(path.bandwidth_bytes_per_s for path in paths), -max(path.latency_s for path in paths)
