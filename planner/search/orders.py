"""Orders: in which order the nodes of a cluster take the places of the standard order.

Nodes move inside their node group, domains whole, and their devices stay in their order. Nodes that nothing tells apart
are interchangeable: exchanging two of them changes no path, so that one order of each class of nodes stands for all.
On a cluster of one node group without exceptions all nodes are one class, and the standard order is the only one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, groupby

from ...clusters.wiring import Wiring

Order = tuple[int, ...]
"""Units (domains of nodes) by place."""

_STARTS = 4
"""Nodes from which a chain of good paths is tried."""


class Orders:
    """The orders of the units on which the ranks of a map lie."""

    def __init__(self, wiring: Wiring, rank_map: Sequence[int]) -> None:
        self._wiring = wiring
        found: dict[int, list[int]] = {}
        for device in rank_map:
            found.setdefault(wiring.nodes[wiring.node_of[device]].domain, []).append(device)
        self._devices = list(found.values())
        self._nodes = [list(dict.fromkeys(wiring.node_of[device] for device in devices)) for devices in self._devices]
        self._sites = [wiring.nodes[nodes[0]].group for nodes in self._nodes]
        self.standard: Order = tuple(range(len(self._devices)))
        self._classes = self._classified()

    @property
    def count(self) -> int:
        """Orders that differ."""
        total = 1
        for site in set(self._sites):
            own = [kind for kind, at in zip(self._classes, self._sites, strict=True) if at == site]
            total *= math.factorial(len(own)) // math.prod(map(math.factorial, Counter(own).values()))
        return total

    def rank_map(self, order: Order) -> tuple[int, ...]:
        """The device of each rank."""
        return tuple(device for unit in order for device in self._devices[unit])

    def every(self) -> Iterator[Order]:
        """All that differ, the standard order first."""
        runs = [list(run) for _, run in groupby(self.standard, key=self._sites.__getitem__)]
        yield from self._completed((), runs)

    def _completed(self, begun: Order, runs: list[list[int]]) -> Iterator[Order]:
        if not runs:
            yield begun
            return
        for arranged in self._arranged(runs[0]):
            yield from self._completed(begun + arranged, runs[1:])

    def _arranged(self, units: list[int]) -> Iterator[Order]:
        """Permutations of units that differ by class."""
        if not units:
            yield ()
        seen: set[int] = set()
        for place, unit in enumerate(units):
            if self._classes[unit] not in seen:
                seen.add(self._classes[unit])
                yield from ((unit, *rest) for rest in self._arranged(units[:place] + units[place + 1 :]))

    def guesses(self) -> Iterator[Order]:
        """Orders that bring good paths together, and what is slow to one end."""
        yield self.standard
        for by in (self._card, self._fabric):
            yield self._sorted(by)
            yield self._sorted(lambda unit, by=by: -by(unit))  # type: ignore[misc]
        if self._wiring.pairs:
            for chain in self._chains():
                position = {unit: place for place, unit in enumerate(chain)}
                yield self._sorted(position.__getitem__)
                yield self._sorted(lambda unit, position=position: -position[unit])  # type: ignore[misc]

    def neighbours(self, order: Order) -> Iterator[Order]:
        """Two units of different classes exchanged, or one moved elsewhere, inside a node group."""
        places = [
            (a, b) for a, b in combinations(range(len(order)), 2) if self._sites[order[a]] == self._sites[order[b]]
        ]
        for a, b in places:
            if self._classes[order[a]] != self._classes[order[b]]:
                swapped = list(order)
                swapped[a], swapped[b] = order[b], order[a]
                yield tuple(swapped)
        for a, b in places:
            if b - a > 1 and self._is_whole(order[a : b + 1]):
                yield (*order[:a], *order[a + 1 : b + 1], order[a], *order[b + 1 :])
                yield (*order[:a], order[b], *order[a:b], *order[b + 1 :])

    def _is_whole(self, part: Order) -> bool:
        return len({self._sites[unit] for unit in part}) == 1

    def _sorted(self, by: Callable[[int], float]) -> Order:
        """The standard order with each node group sorted."""
        runs = (list(run) for _, run in groupby(self.standard, key=self._sites.__getitem__))
        return tuple(unit for run in runs for unit in sorted(run, key=by))

    def _card(self, unit: int) -> float:
        paths = (self._wiring.nodes[node].network for node in self._nodes[unit])
        return min(path.bandwidth_bytes_per_s if path else math.inf for path in paths)

    def _fabric(self, unit: int) -> float:
        return min(self._wiring.nodes[node].fabric_factor for node in self._nodes[unit])

    def _chains(self) -> Iterator[list[int]]:
        """Chains through all units along good paths: those that a tree of the widest paths grows together to, and from
        each of the units with the worst paths always to the nearest that is left."""
        import networkx as nx

        rates = {pair: self._rate(*pair) for pair in combinations(self.standard, 2)}
        graph: nx.Graph[int] = nx.Graph()
        graph.add_weighted_edges_from((a, b, rate) for (a, b), rate in rates.items())
        chain_of = {unit: [unit] for unit in self.standard}
        tree = nx.maximum_spanning_edges(graph, data=True)
        for a, b, _ in sorted(tree, key=lambda edge: (-edge[2]["weight"], edge[:2])):
            joined = _joined(chain_of[a], chain_of[b], rates)
            chain_of |= dict.fromkeys(joined, joined)
        yield chain_of[0]
        worst = sorted(
            self.standard, key=lambda unit: (sum(graph[unit][other]["weight"] for other in graph[unit]), unit)
        )
        for start in worst[:_STARTS]:
            chain, left = [start], set(self.standard) - {start}
            while left:
                last = chain[-1]
                chain.append(max(left, key=lambda other: (rates[min(last, other), max(last, other)], -other)))
                left.remove(chain[-1])
            yield chain

    def _rate(self, a: int, b: int) -> float:
        """The worst of the paths between two units."""
        pairs = zip(self._nodes[a], self._nodes[b], strict=False)
        return min(self._wiring.between(one, other).bandwidth_bytes_per_s for one, other in pairs)

    def _classified(self) -> list[int]:
        """The class of each unit: the first unit that is as it is, to itself and to all others."""
        pairs, apart = self._wiring.pairs, {node for pair in self._wiring.pairs for node in pair}
        firsts: dict[tuple[object, ...], list[int]] = {}
        found = []
        for unit, nodes in enumerate(self._nodes):
            facts = [(self._wiring.nodes[node].network, self._wiring.nodes[node].fabric_factor) for node in nodes]
            key = (self._sites[unit], len(self._devices[unit]), tuple(facts), apart.isdisjoint(nodes))
            alike = (
                first for first in firsts.get(key, []) if apart.isdisjoint(nodes) or self._alike(first, unit, pairs)
            )
            first = next(alike, unit)
            if first == unit:
                firsts.setdefault(key, []).append(unit)
            found.append(first)
        return found

    def _alike(self, one: int, other: int, pairs: dict[tuple[int, int], float]) -> bool:
        """Whether exchanging two units of one node each changes no path."""
        if len(self._nodes[one]) > 1 or len(self._nodes[other]) > 1:
            return False
        a, b = self._nodes[one][0], self._nodes[other][0]
        others = (node for node in range(len(self._wiring.nodes)) if node not in (a, b))
        return all(pairs.get(_pair(a, node)) == pairs.get(_pair(b, node)) for node in others)


def _pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def _joined(one: list[int], other: list[int], rates: dict[tuple[int, int], float]) -> list[int]:
    """Two chains as one, at the best path between their ends."""
    ways = [(left, right) for left in (one, one[::-1]) for right in (other, other[::-1])]
    left, right = max(ways, key=lambda way: rates[_pair(way[0][-1], way[1][0])])
    return left + right
