"""AnyOrder: what ranks see at best, whichever of its node group's nodes stands at each place. A bound for a search.

Each question is answered for itself, so that no single order need be as good as all answers together; none is better
than any answer. The argument: an order gives every place of a node group to one of its nodes. Of t places whose nodes
send over the network, each to k other nodes or more, the node with the t-th best k-th best path is the best that the
worst of them can be; a group or a border is as slow as its slowest node. Where a node group has no exceptions its nodes
are interchangeable, and every order of them is as the standard one: the answers are then those of `Topology`.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

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


class _Ranked:
    """The nodes of each node group by their k-th best path, best first."""

    def __init__(self, wiring: Wiring, used: Sequence[int]) -> None:
        self.wiring, self._used = wiring, used
        self._known: dict[tuple[int, int], list[float]] = {}

    def rate(self, site: int, places: int, partners: int) -> float:
        """Of the best `places` nodes of a node group, what the worst has to the last of its best `partners` others."""
        key = site, partners
        if key not in self._known:
            own = [node for node in self._used if self.wiring.nodes[node].group == site]
            self._known[key] = sorted((self._of(node, partners) for node in own), reverse=True)
        return self._known[key][places - 1]

    def _of(self, node: int, partners: int) -> float:
        domain = self.wiring.nodes[node].domain
        others = (other for other in self._used if self.wiring.nodes[other].domain != domain)
        rates = heapq.nlargest(partners, (self.wiring.between(node, other).bandwidth_bytes_per_s for other in others))
        return rates[-1] if rates else math.inf


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
