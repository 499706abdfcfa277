"""What the workers of a scenario would report of an ideal network: rates as they were built, gloo's factors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any

from meshwright.clusters.link_costs import Operation, moved_bytes

from .scenario import Scenario

SIZES = (1024, 2**16, 2**19, 2**20, 2**22)
MORE = {"reduce_scatter": 2.0, "all_to_all": 1.5}


OPERATIONS: tuple[Operation, ...] = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


def rows(
    scope: str,
    groups: Iterable[tuple[int, ...]],
    rate_of: Callable[[tuple[int, ...]], float],
    latency_s: float = 1e-3,
) -> Iterator[dict[str, Any]]:
    """Rows of operations over sizes."""
    for ranks in groups:
        for name in OPERATIONS:
            for size in SIZES:
                wire_s = MORE.get(name, 1.0) * moved_bytes(name, len(ranks), size) / rate_of(ranks)
                yield {
                    "scope": scope,
                    "members": len(ranks),
                    "ranks": list(ranks),
                    "operation": name,
                    "bytes": size,
                    "seconds": latency_s + wire_s,
                }


def ring_rate(scenario: Scenario, ranks: tuple[int, ...]) -> float:
    """Of the narrowest path of a ring, in bytes per second."""
    return min(scenario.bytes_per_s(a, b) for a, b in zip(ranks, [*ranks[1:], ranks[0]], strict=True))


def results(scenario: Scenario) -> list[dict[str, Any]]:
    """What the workers of a scenario would report, one on every host."""
    hosts = range(scenario.hosts)
    pairs = [[a, b, scenario.bytes_per_s(a, b), scenario.bytes_per_s(b, a), 1e-4] for a, b in combinations(hosts, 2)]
    groups = [tuple(hosts), *zip(hosts[::2], hosts[1::2], strict=True)]
    seen = list(rows("across", groups, lambda ranks: ring_rate(scenario, ranks)))
    own = {"hosts": {str(host): f"host {host}" for host in hosts}, "pairs": pairs, "rows": seen}
    return [own, *({} for _ in hosts[1:])]
