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
from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any

from .check import check, check_rank_map
from .mapped import Mapped
from .paths import GroupPaths, Path, Place, domain_devices, fabric_path, narrowest, network_path, worst
from .schema import Cluster, GroupLink, NodeGroup
from .wiring import Wiring, is_uniform

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["GroupPaths", "Path", "Place", "Topology", "domain_devices"]

SAMPLED = 64
"""Groups of one shape that are looked at, where node groups differ but each is uniform."""


class Topology:
    """A checked cluster that answers what joins its devices, seen by ranks.

    Rank r is device `rank_map[r]`; by default the devices that can be used, in their order. Ranks from `edges[i]` to
    below `edges[i + 1]` lie in the node group `sites[i]`. Raises InputError if parts are not joined, or where the map
    names a device twice or one that is not there.
    """

    def __init__(self, cluster: Cluster, rank_map: Sequence[int] = (), wiring: Wiring | None = None) -> None:
        """`wiring` is that of the same cluster, where somebody has it: the cluster is checked then."""
        if wiring is None:
            check(cluster, f"cluster {cluster.name}")
            check_rank_map(cluster, rank_map)
        self.cluster = cluster
        groups = cluster.node_groups
        self._first = (0, *accumulate(group.num_devices for group in groups))
        self._domain = tuple(domain_devices(group) for group in groups)
        self._outer = tuple(network_path(group) for group in groups)
        names = {group.name: index for index, group in enumerate(groups)}
        self._links = {frozenset(names[name] for name in link.between): link for link in cluster.links}
        self._known: dict[range | tuple[int, ...], GroupPaths] = {}
        self._mapped = _mapped(cluster, rank_map, self._first[-1], wiring)
        self.num_devices = self._first[-1] if self._mapped is None else len(self._mapped.rank_map)
        runs = [(site, len(list(run))) for site, run in groupby(self._mapped.sites)] if self._mapped else []
        self.sites = tuple(site for site, _ in runs) or tuple(range(len(groups)))
        self.edges = (0, *accumulate(count for _, count in runs)) if runs else self._first

    @property
    def is_regular(self) -> bool:
        """Whether ranks fill a cluster without exceptions in the standard order."""
        return self._mapped is None

    def device(self, rank: int) -> int:
        """The number of a rank's device."""
        return rank if self._mapped is None else self._mapped.rank_map[rank]

    def place(self, rank: int) -> Place:
        """Node group, domain, node and local index of a rank. Raises IndexError outside the cluster."""
        self._inside(rank, rank)
        device = self.device(rank)
        group = bisect_right(self._first, device) - 1
        index = device - self._first[group]
        node, local = divmod(index, self.cluster.node_groups[group].devices_per_node)
        return Place(group, index // self._domain[group], node, local)

    def group(self, ranks: Sequence[int]) -> GroupPaths:
        """Paths of one process group. A `range`, or ranks at equal steps, costs the same for any size."""
        key = _as_range(ranks)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._group(key if isinstance(key, range) else tuple(sorted(key)))
        return known

    def slowest_group(self, stride: int, count: int, ranks: range) -> GroupPaths:
        """Of the process groups of `count` ranks, `stride` apart, that tile these ranks: the slowest.

        On a regular cluster one block of stride x count ranks is as another inside a node group, and up to 64 blocks
        are looked at where there are several; else all groups are.
        """
        span = stride * count
        starts = self._starts(span, ranks)
        if self._mapped is not None:
            return self._mapped.slowest_group(stride, count, starts)
        if not self._differs(ranks, span, starts.start):
            return self.group(range(starts.start, starts.start + span, stride))
        sampled = starts[:: max(1, len(starts) // SAMPLED)]
        return min((self.group(range(first, first + span, stride)) for first in sampled), key=narrowest)

    def _starts(self, span: int, ranks: range) -> range:
        """Where blocks of so many ranks begin."""
        return range(-(-ranks.start // span) * span, ranks.stop - span + 1, span) or range(1)

    def _differs(self, ranks: range, span: int, first: int) -> bool:
        """Whether blocks of so many ranks see different things."""
        site = bisect_right(self._first, ranks.start) - 1
        if ranks.stop > self._first[site + 1]:
            return True
        domain = self._domain[site]
        on_grid = domain % span == 0 or span % domain == 0
        return not on_grid or (first - self._first[site]) % min(domain, span) != 0

    def border(self, stage_ranks: int, stage: int, there: int) -> Path:
        """Of the paths from the ranks of one pipeline stage to those of another, the next: the slowest."""
        if self._mapped is not None:
            return self._mapped.border(stage_ranks, stage, there)
        return self.point_to_point(stage * stage_ranks, there * stage_ranks)

    def point_to_point(self, a: int, b: int) -> Path:
        """The path between two ranks, while all other pairs at the same distance use theirs.

        Such pairs are what a pipeline makes: rank r sends to r + |a - b|, all r at once.
        """
        if self._mapped is not None:
            self._inside(min(a, b), max(a, b))
            return self._mapped.point_to_point(a, b)
        here, there = self.place(a), self.place(b)
        if here.group == there.group:
            return self._fabric(here.group, 2) if here.domain == there.domain else self._network(here.group)
        link = self._link_path(here.group, there.group, self._pairs(here.group, there.group, abs(a - b)))
        return worst([self._network(here.group), self._network(there.group), link])

    def card(self, ranks: range) -> Path | None:
        """What the slowest of these ranks sends at once over its part of its node's cards; None without any."""
        self._inside(ranks.start, ranks.stop - 1)
        if self._mapped is not None:
            return self._mapped.card(ranks)
        first, last = (bisect_right(self._first, rank) - 1 for rank in (ranks.start, ranks.stop - 1))
        cards = [path for path in self._outer[first : last + 1] if path is not None]
        return worst(cards) if cards else None

    def used(self, devices: int) -> list[tuple[NodeGroup, int]]:
        """How many of the first `devices` ranks lie on each run of devices of one node group."""
        runs = zip(self.sites, pairwise(self.edges), strict=True)
        counts = [(site, min(stop, devices) - first) for site, (first, stop) in runs]
        return [(self.cluster.node_groups[site], count) for site, count in counts if count > 0]

    def graph(self) -> nx.Graph[Any]:
        """The cluster as a graph: devices, domains, NICs and switches; see `clusters/graph.py`."""
        from .graph import build

        return build(self.cluster)

    def _group(self, ranks: Sequence[int]) -> GroupPaths:
        if not ranks:
            raise ValueError("a process group has at least one rank")
        self._inside(ranks[0], ranks[-1])
        if self._mapped is not None:
            return self._mapped.group(ranks)
        parts = self._split(ranks)
        members = {group: len(part) for group, part in parts}
        domains = {group: _count_domains(part, self._first[group], self._domain[group]) for group, part in parts}
        total = sum(domains.values())
        inside = {group: math.ceil(members[group] / domains[group]) for group in members}
        inner = [self._fabric(group, count) for group, count in inside.items() if count > 1]
        outer = [self._network(group) for group in members] if total > 1 else []
        outer += self._crossings(ranks, tuple(members), total)
        return GroupPaths(len(ranks), total, worst(inner) if inner else None, worst(outer) if outer else None)

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
        return fabric_path(self.cluster.node_groups[group], members)

    def _inside(self, first: int, last: int) -> None:
        if first < 0 or last >= self.num_devices:
            raise IndexError(f"ranks {first}..{last} of a cluster of {self.num_devices} devices")


def _mapped(cluster: Cluster, rank_map: Sequence[int], places: int, wiring: Wiring | None) -> Mapped | None:
    """None where arithmetic answers: nothing but node groups and links, ranks in the order of the devices."""
    in_order = not rank_map or tuple(rank_map) == tuple(range(places))
    if in_order and is_uniform(cluster):
        return None
    gone = cluster.missing_devices
    return Mapped(wiring or Wiring(cluster), rank_map or [device for device in range(places) if device not in gone])


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
