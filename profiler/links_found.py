"""What all workers have seen of links, put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any

from .links_shapes import Ranks
from .links_topology import Rates, Topology, find_topology, host_pairs


@dataclass(frozen=True)
class Links:
    """Hosts with their workers, rates between hosts, rows of operations. Rates in bytes per second."""

    hosts: tuple[Ranks, ...]
    rates: Rates  # of whole hosts
    crossing: Rates  # the same while all that can cross between racks
    latency_s: float  # of a message between hosts; between workers of one where there is only one
    rows: tuple[Mapping[str, Any], ...]
    inside: Rates = field(default_factory=dict)  # between workers of one host, by their ranks

    def of_workers(self, ranks: Ranks) -> Links:
        """The workers of a host, as if each were a host."""
        place = {rank: index for index, rank in enumerate(ranks)}
        rates = {(place[a], place[b]): rate for (a, b), rate in self.inside.items() if {a, b} <= place.keys()}
        return Links(tuple((rank,) for rank in ranks), rates, {}, self.latency_s, ())

    @cached_property
    def topology(self) -> Topology:
        """Racks, groups and what is slow."""
        return find_topology(len(self.hosts), self.rates, self.crossing)

    @cached_property
    def best(self) -> tuple[float, ...]:
        """What the cards of every host sustain."""
        hosts = range(len(self.hosts))
        return tuple(max((rate for pair, rate in self.rates.items() if host in pair), default=0.0) for host in hosts)

    @cached_property
    def _host_of(self) -> dict[int, int]:
        return {rank: index for index, host in enumerate(self.hosts) for rank in host}

    def usual(self, a: int, b: int) -> float:
        """Between two hosts: what is usual there, or what was measured where that is slow; 0 where nothing was."""
        pair, found = (min(a, b), max(a, b)), self.topology
        if pair not in self.rates or any(pair == slow.hosts for slow in found.slow_links):
            return self.rates.get(pair, 0.0)
        cards = min(self.card(host) for host in pair)
        ends = sorted(index for index, rack in enumerate(found.racks) for host in pair if host in rack)
        return cards if ends[0] == ends[1] else min(cards, self.between(ends[0], ends[1]))

    def card(self, host: int) -> float:
        """What is usual for a host's cards, or what was measured where they are slow."""
        if any(slow.hosts == (host,) for slow in self.topology.slow_hosts):
            return self.best[host]
        places = zip(self.topology.groups, self.topology.cards, strict=True)
        return next(rate for group, rate in places if host in group)

    def between(self, a: int, b: int) -> float:
        """What one host has to one of another rack while all that can cross at once."""
        racks = [set(self.topology.racks[index]) for index in (a, b)]
        rates = [rate for pair, rate in self.crossing.items() if all(rack & set(pair) for rack in racks)]
        return median(rates) if rates else self.topology.across[a, b]

    def uplink(self, hosts: Ranks, others: Ranks) -> float:
        """What crosses at once between two parts of the cluster; 0 where it was not measured."""
        sides = set(hosts), set(others)
        return sum(rate for pair, rate in self.crossing.items() if all(side & set(pair) for side in sides))

    def bandwidth(self, ranks: Sequence[int]) -> float:
        """Of one worker in a ring of these, each on a host of its own, while its neighbours have rings of theirs."""
        hosts = [self._host_of[rank] for rank in ranks]
        ring = [*pairwise(hosts), *([(hosts[-1], hosts[0])] if len(hosts) > 2 else [])]
        return min(self.usual(a, b) for a, b in ring) / max(map(len, self.hosts))


def read_links(results: Sequence[Mapping[str, Any]]) -> Links | None:
    """From the results of all workers (`links.Seen`); None where no worker has seen another."""
    names: dict[int, str] = {}
    for result in results:
        names |= {int(rank): name for rank, name in result.get("hosts", {}).items()}
    if len(names) < 2:
        return None
    hosts: dict[str, list[int]] = {}
    for rank in sorted(names):
        hosts.setdefault(names[rank], []).append(rank)
    machines = tuple(tuple(ranks) for ranks in hosts.values())
    pairs = _all(results, "pairs")
    apart = [row for row in pairs if names.get(int(row[0])) != names.get(int(row[1]))]
    ranks = sorted(names)
    near = host_pairs([(rank,) for rank in ranks], (row for row in pairs if row not in apart))
    return Links(
        hosts=machines,
        rates=host_pairs(machines, _all(results, "nodes") or pairs),
        crossing=host_pairs(machines, _all(results, "uplinks")),
        latency_s=median([row[4] for row in apart or pairs] or [0.0]),
        rows=tuple(_distinct(result.get("rows", []) for result in results)),
        inside={(ranks[a], ranks[b]): rate for (a, b), rate in near.items()},
    )


def _all(results: Iterable[Mapping[str, Any]], name: str) -> list[list[float]]:
    return [row for result in results for row in result.get(name, [])]


def _distinct(rows: Iterable[Iterable[Mapping[str, Any]]]) -> Iterable[Mapping[str, Any]]:
    """Every member of a group has its rows, the slowest member's times: one of them is enough."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in (row for own in rows for row in own):
        found.setdefault((row["scope"], row["operation"], row["bytes"], tuple(row["ranks"])), row)
    return found.values()
