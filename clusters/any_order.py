"""AnyOrder: what ranks see at best, whichever of its node group's nodes stands at each place. A bound for a search.

Each question is answered for itself, so that no single order need be as good as all answers together; none is better
than any answer. The argument: an order gives every place of a node group to one of its nodes. Of t places whose nodes
send over the network, each to k other nodes or more, the node with the t-th best k-th best path is the best that the
worst of them can be; a group or a border is as slow as its slowest node.
Rings of t nodes each that all have paths of some rate lie inside the parts of the cluster that such paths join, and a
part of s nodes has room for s / t of them, rounded down. Where a node group has no exceptions its nodes
are interchangeable, and every order of them is as the standard one: the answers are then those of `Topology`.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from .mapped import Mapped
from .paths import GroupPaths, Path
from .schema import Cluster
from .topology import Topology
from .wiring import Node, Wiring


class AnyOrder(Topology):
    """Bounds on the answers of `Topology(cluster, order)` over all orders of nodes inside their node groups."""

    def __init__(self, cluster: Cluster, rank_map: Sequence[int] = (), wiring: Wiring | None = None) -> None:
        super().__init__(cluster, rank_map, wiring)
        self._best: Mapped | None = None
        if self._mapped is not None:
            used = sorted(set(self._mapped.nodes))
            self._ranked = _Ranked(self._mapped.wiring, used)
            self._best = Mapped(_evened(self._mapped.wiring, used), self._mapped.rank_map)

    def slowest_group(self, stride: int, count: int, ranks: range) -> GroupPaths:
        """The slowest such group in the best order."""
        best = self._best
        if best is None:
            return super().slowest_group(stride, count, ranks)
        starts = self._starts(stride * count, ranks)
        found = best.slowest_group(stride, count, starts)
        if found.outer is None:
            return found
        outer = self._capped(found.outer, best.steps(stride, count, starts))
        packed = self._ranked.packed(best.rings(stride, count, starts))
        outer = replace(outer, bandwidth_bytes_per_s=min(outer.bandwidth_bytes_per_s, packed))
        apart = self._ranked.wiring.pairs  # in an all-to-all a slow path has more time: cards alone bound it
        return replace(found, outer=outer, outer_pairs=found.outer if apart else None)

    def border(self, stage_ranks: int, stage: int, there: int) -> Path:
        """The slowest path from one stage to another in the best order."""
        best = self._best
        if best is None:
            return super().border(stage_ranks, stage, there)
        return self._capped(best.border(stage_ranks, stage, there), best.border_steps(stage_ranks, stage, there))

    def _capped(self, path: Path, steps: Iterable[tuple[int, int]]) -> Path:
        """Not faster than the best choice of nodes for these places makes its worst node."""
        assert self._mapped is not None
        nodes, partners = self._mapped.wiring.nodes, defaultdict[int, set[int]](set)
        for a, b in steps:
            partners[a].add(b)
            partners[b].add(a)
        least = min(map(len, partners.values()), default=0)
        places = Counter(nodes[node].group for node in partners)
        rates = [self._ranked.rate(site, count, least) for site, count in places.items()]
        return replace(path, bandwidth_bytes_per_s=min(path.bandwidth_bytes_per_s, *rates)) if rates else path


MOST_PACKED = 256
"""Nodes of which every pair is looked at."""


class _Ranked:
    """The nodes of each node group by their k-th best path, best first; and the parts that paths of each rate join."""

    def __init__(self, wiring: Wiring, used: Sequence[int]) -> None:
        self.wiring, self._used = wiring, used
        self._parts = list(_parts(wiring, used)) if wiring.pairs and len(used) <= MOST_PACKED else []
        self._known: dict[tuple[int, int], list[float]] = {}
        self._apart = {node for pair in wiring.pairs for node in pair}
        networks = ((node, wiring.nodes[node].network) for node in used)
        self._cards = {node: path.bandwidth_bytes_per_s for node, path in networks if path is not None}

    def rate(self, site: int, places: int, partners: int) -> float:
        """Of the best `places` nodes of a node group, what the worst has to the last of its best `partners` others."""
        key = site, partners
        if key not in self._known:
            own = [node for node in self._used if self.wiring.nodes[node].group == site]
            self._known[key] = sorted((self._of(node, partners) for node in own), reverse=True)
        return self._known[key][places - 1]

    def packed(self, rings: Collection[frozenset[int]]) -> float:
        """The best rate at which so many rings of such sizes have room."""
        if not rings or not self._parts:
            return math.inf
        size = min(map(len, rings))
        count = len(rings) if sum(map(len, rings)) == len(frozenset[int]().union(*rings)) else 1
        return next((rate for rate, sizes in self._parts if sum(each // size for each in sizes) >= count), 0.0)

    def _of(self, node: int, partners: int) -> float:
        if node not in self._apart:
            return min(self._cards[node], heapq.nlargest(partners, self._cards.values())[-1])
        domain = self.wiring.nodes[node].domain
        others = (other for other in self._used if self.wiring.nodes[other].domain != domain)
        rates = heapq.nlargest(partners, (self.wiring.between(node, other).bandwidth_bytes_per_s for other in others))
        return rates[-1] if rates else math.inf


def _parts(wiring: Wiring, used: Sequence[int]) -> Iterator[tuple[float, list[int]]]:
    """For each rate, the highest first, the sizes of the parts that paths of it and better ones join; nodes of one
    domain are joined by its fabric. (Kruskal's order of the edges of a maximum spanning tree.)"""
    nodes, part_of = wiring.nodes, {node: {node} for node in used}
    across: dict[tuple[int, int], float] = {}
    for a, b in combinations(used, 2):
        if nodes[a].domain == nodes[b].domain:
            _join(part_of, a, b)
        else:
            across[a, b] = wiring.between(a, b).bandwidth_bytes_per_s
    for pair in sorted(across, key=lambda pair: -across[pair]):
        if _join(part_of, *pair):
            yield across[pair], [len(part) for part in {id(part): part for part in part_of.values()}.values()]


def _join(part_of: dict[int, set[int]], a: int, b: int) -> bool:
    """Make one part of two; whether they were two."""
    one, other = part_of[a], part_of[b]
    if one is other:
        return False
    one |= other
    part_of.update(dict.fromkeys(other, one))
    return True


def _evened(wiring: Wiring, used: Sequence[int]) -> Wiring:
    """Every node as the best of its node group, no two known apart."""
    best: dict[int, tuple[Path | None, float]] = {}
    for index in used:
        node = wiring.nodes[index]
        network, factor = best.get(node.group, (None, 0.0))
        if network is None or (node.network and node.network.bandwidth_bytes_per_s > network.bandwidth_bytes_per_s):
            network = node.network
        best[node.group] = network, max(factor, node.fabric_factor)
    return Wiring(wiring.cluster, (_as(node, *best.get(node.group, (None, 1.0))) for node in wiring.nodes))


def _as(node: Node, network: Path | None, fabric_factor: float) -> Node:
    return replace(node, network=network, fabric_factor=fabric_factor)
