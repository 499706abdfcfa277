"""Mapped: what a group of ranks sees where ranks lie on devices in any order, or where nodes differ.

The same answers as the arithmetic of `Topology` gives on a uniform cluster in the standard order, found rank by rank:

- a collective's ring goes through the domains in the order of the ranks, as NCCL and gloo build theirs, with one
  ring for each member of a domain; its narrowest path counts;
- in an all-to-all each of d domains sends 1 / (d - 1) of what leaves it to each other one, so that a narrow path
  between two domains has that much more time than the cards at its ends;
- a link between node groups is shared by the rings that cross it at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations, pairwise, starmap
from typing import TypeVar

from .paths import GroupPaths, Path, narrowest, worst
from .schema import GroupLink
from .wiring import Wiring

Member = TypeVar("Member")
Domains = list[list[int]]
"""Devices of a group by domain, domains in the order of their first ranks."""


class Mapped:
    """Ranks on devices: rank r is device `rank_map[r]`."""

    def __init__(self, wiring: Wiring, rank_map: Sequence[int]) -> None:
        self.wiring, self.rank_map = wiring, tuple(rank_map)
        groups = wiring.cluster.node_groups
        numbers = {group.name: index for index, group in enumerate(groups)}
        self._links = {frozenset(numbers[name] for name in link.between): link for link in wiring.cluster.links}
        self.nodes = tuple(wiring.node_of[device] for device in self.rank_map)
        self.sites = tuple(wiring.nodes[node].group for node in self.nodes)
        self._pairs: dict[int, Counter[tuple[int, int]]] = {}

    def group(self, ranks: Sequence[int]) -> GroupPaths:
        """Paths of the process group of these (ascending) ranks."""
        domains = self._domains(ranks)
        inner = list(self._inner(domains))
        outer, pairs = None, None
        if len(domains) > 1:
            side_by_side = (ranks[-1] - ranks[0]) / (len(ranks) - 1)
            flows = max(1, round(side_by_side * len(ranks) / len(domains)))
            crossed = list(self._crossed(domains, flows))
            outer = worst([*starmap(self.wiring.between, sorted(self._steps(domains))), *crossed])
            pairs = self._all_pairs(domains, crossed) if self.wiring.pairs else outer
        found = None if pairs == outer else pairs
        return GroupPaths(len(ranks), len(domains), worst(inner) if inner else None, outer, found)

    def point_to_point(self, a: int, b: int) -> Path:
        """The path between two ranks, while all other pairs at the same distance use theirs."""
        here, there = self.nodes[a], self.nodes[b]
        nodes = self.wiring.nodes
        if nodes[here].domain == nodes[there].domain:
            return next(self._inner([[self.rank_map[a], self.rank_map[b]]]))
        path, one, other = self.wiring.between(here, there), self.sites[a], self.sites[b]
        if one == other:
            return path
        flows = self._flows(abs(a - b))
        return worst([path, self._link(frozenset((one, other)), max(flows[one, other], flows[other, one]))])

    def slowest_group(self, stride: int, count: int, starts: range) -> GroupPaths:
        """What the groups of `count` ranks, `stride` apart, in the blocks that begin at `starts` have at worst: inside
        a domain and between domains, each of the group that has least."""
        found = [self.group(ranks) for ranks in self._tiles(stride, count, starts).values()]
        slowest = min(found, key=narrowest)
        return replace(
            slowest,
            inner=_worst_of([each.inner for each in found]),
            outer=_worst_of([each.outer for each in found]),
            outer_pairs=_worst_of([each.outer_pairs or each.outer for each in found]) if self.wiring.pairs else None,
        )

    def steps(self, stride: int, count: int, starts: range) -> set[tuple[int, int]]:
        """Pairs of nodes of different domains that follow each other in the rings of those groups."""
        tiles = self._tiles(stride, count, starts).values()
        return {step for ranks in tiles for step in self._steps(self._domains(ranks))}

    def rings(self, stride: int, count: int, starts: range) -> set[frozenset[int]]:
        """The nodes of each of those groups that lies in several domains."""
        tiles = self._tiles(stride, count, starts).values()
        found = {frozenset(self.nodes[rank] for rank in ranks) for ranks in tiles}
        nodes = self.wiring.nodes
        return {ring for ring in found if len({nodes[node].domain for node in ring}) > 1}

    def _tiles(self, stride: int, count: int, starts: range) -> dict[tuple[int, ...], range]:
        """The groups; of those on the same nodes, one."""
        alike: dict[tuple[int, ...], range] = {}
        where = self.nodes if self._is_alike_inside_nodes else self.rank_map
        for start in starts:
            for first in range(start, start + stride):
                ranks = range(first, first + stride * count, stride)
                alike.setdefault(tuple(where[first : ranks.stop : stride]), ranks)
        return alike

    def border_steps(self, stage_ranks: int, stage: int, there: int) -> set[tuple[int, int]]:
        """Pairs of nodes of different domains between which one stage sends to another."""
        nodes = self.wiring.nodes
        ends = ((self.nodes[a], self.nodes[b]) for a, b in _border(stage_ranks, stage, there))
        return {(a, b) for a, b in ends if nodes[a].domain != nodes[b].domain}

    def border(self, stage_ranks: int, stage: int, there: int) -> Path:
        """Of the paths from the ranks of one pipeline stage to those of another: the slowest."""
        where = self.nodes if self._is_alike_inside_nodes else self.rank_map
        pairs = {(where[a], where[b]): (a, b) for a, b in _border(stage_ranks, stage, there)}
        return worst(self.point_to_point(a, b) for a, b in pairs.values())

    def card(self, ranks: range) -> Path | None:
        """The slowest card of those of these ranks' nodes."""
        networks = (self.wiring.nodes[node].network for node in sorted(set(self.nodes[ranks.start : ranks.stop])))
        return _worst_of(networks)

    @cached_property
    def _is_alike_inside_nodes(self) -> bool:
        """Whether it does not matter which of a node's devices a rank has."""
        return all(group.fabric.matrix is None for group in self.wiring.cluster.node_groups)

    def _domains(self, ranks: Iterable[int]) -> Domains:
        found: dict[int, list[int]] = {}
        for rank in ranks:
            found.setdefault(self.wiring.nodes[self.nodes[rank]].domain, []).append(self.rank_map[rank])
        return list(found.values())

    def _inner(self, domains: Domains) -> Iterator[Path]:
        """Inside the domains of each node group that has more than one member in each."""
        node_of, nodes = self.wiring.node_of, self.wiring.nodes
        by_site: dict[int, Domains] = {}
        for members in domains:
            by_site.setdefault(nodes[node_of[members[0]]].group, []).append(members)
        for site, parts in sorted(by_site.items()):
            count = math.ceil(sum(map(len, parts)) / len(parts))
            if count > 1:
                path = self.wiring.fabric({node_of[each] for part in parts for each in part}, site, count)
                rates = [rate for part in parts for rate in self._fabric_ring(site, part, path)]
                yield replace(path, bandwidth_bytes_per_s=min(rates)) if rates else path

    def _fabric_ring(self, site: int, members: Sequence[int], path: Path) -> Iterator[float]:
        """Measured rates between neighbours of a ring inside one node; `path` where there is none."""
        matrix, node = self.wiring.cluster.node_groups[site].fabric.matrix, self.wiring.node_of[members[0]]
        if matrix is None:
            return
        scale = self.wiring.nodes[node].fabric_factor * matrix.scale_bytes_per_s
        local = [device - self.wiring.first_device[node] for device in members]
        for a, b in _around(local):
            yield scale * matrix.slower(a, b) or path.bandwidth_bytes_per_s

    def _steps(self, domains: Domains) -> set[tuple[int, int]]:
        """Nodes that follow each other in the rings: the j-th member of each domain sends to the j-th of the next."""
        node_of, around = self.wiring.node_of, list(_around(domains))
        pairs = (pair for here, there in around for pair in zip(here, there, strict=False))
        return {(node_of[a], node_of[b]) for a, b in pairs}

    def _all_pairs(self, domains: Domains, crossed: Sequence[Path]) -> Path:
        """What a device has for all others at once. Only pairs that are known apart can be narrower than the cards."""
        wiring = self.wiring
        nodes = sorted({wiring.node_of[each] for members in domains for each in members})
        cards = [path for path in (wiring.nodes[node].network for node in nodes) if path is not None]
        path = worst([*cards, *crossed])
        known = wiring.pairs if len(wiring.pairs) < len(nodes) ** 2 else combinations(nodes, 2)
        inside = set(nodes)
        rates = [wiring.pairs[a, b] for a, b in known if a in inside and b in inside and (a, b) in wiring.pairs]
        least = (len(domains) - 1) * min(rates, default=math.inf)
        return replace(path, bandwidth_bytes_per_s=min(path.bandwidth_bytes_per_s, least))

    def _crossed(self, domains: Domains, flows: int) -> Iterator[Path]:
        """Links between node groups on a ring's way: each flow takes one as often as the ring crosses it."""
        nodes, node_of = self.wiring.nodes, self.wiring.node_of
        sites = [nodes[node_of[members[0]]].group for members in domains]
        crossings = Counter((a, b) for a, b in _around(sites) if a != b)
        for pair in sorted({tuple(sorted(each)) for each in crossings}):
            a, b = pair
            yield self._link(frozenset(pair), flows * max(crossings[a, b], crossings[b, a]))

    def _link(self, sites: frozenset[int], flows: int) -> Path:
        """One flow's share of the link between two node groups."""
        link: GroupLink = self._links[sites]
        shared_by = min(flows, *(self.wiring.cluster.node_groups[site].num_devices for site in sites))
        return Path(link.bandwidth_bytes_per_s / shared_by, link.latency_s, link.kind, is_network=True)

    def _flows(self, distance: int) -> Counter[tuple[int, int]]:
        """How many ranks r of one node group have r + distance in another."""
        if distance not in self._pairs:
            self._pairs[distance] = Counter(zip(self.sites, self.sites[distance:], strict=False))
        return self._pairs[distance]


def _around(ring: Sequence[Member]) -> Iterator[tuple[Member, Member]]:
    """Neighbours of a ring; of two members, one pair."""
    yield from pairwise(ring)
    if len(ring) > 2:
        yield ring[-1], ring[0]


def _border(stage_ranks: int, stage: int, there: int) -> Iterator[tuple[int, int]]:
    return ((stage * stage_ranks + place, there * stage_ranks + place) for place in range(stage_ranks))


def _worst_of(paths: Iterable[Path | None]) -> Path | None:
    there = [path for path in paths if path is not None]
    return worst(there) if there else None
