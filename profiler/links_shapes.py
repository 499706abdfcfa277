"""Shapes: how workers are put into groups to be measured, and in which order pairs meet. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Ranks = tuple[int, ...]
Scope = Literal["inside", "across", "mixed"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Groups of so many members that communicate at once, as all groups of a mesh dimension do."""

    scope: Scope  # members share a host; have one each; or several hosts have several each
    members: int
    groups: tuple[Ranks, ...]

    @property
    def name(self) -> str:
        """For people and records: `inside 4`."""
        return f"{self.scope} {self.members}"

    def of(self, rank: int) -> Ranks | None:
        """The group of a worker; None where one has no place."""
        return next((group for group in self.groups if rank in group), None)


def shapes(hosts: Sequence[Ranks]) -> list[Shape]:
    """Group shapes of workers on these hosts: inside a host and one a host, of 2, 4, 8, ... and of all, and everybody.

    The sizes below all are those of smaller degrees: pairs share less than whole hosts do.
    """
    inside = max(map(len, hosts))
    found = [_shape("inside", size, hosts) for size in _sizes(inside)]
    rails = [tuple(host[place] for host in hosts if place < len(host)) for place in range(inside)]
    found += [_shape("across", size, rails) for size in _sizes(len(hosts))]
    if inside > 1 and len(hosts) > 1:
        everybody = tuple(sorted(rank for host in hosts for rank in host))
        found.append(Shape("mixed", len(everybody), (everybody,)))
    return [shape for shape in found if shape.groups]


def _sizes(most: int) -> list[int]:
    """2, 4, 8, ... below `most`, and `most`."""
    powers = [2**power for power in range(1, most.bit_length()) if 2**power < most]
    return [*powers, most] if most > 1 else []


def _shape(scope: Scope, size: int, rows: Iterable[Ranks]) -> Shape:
    """Every row cut into groups of so many; what is left over stands aside."""
    groups = [row[start : start + size] for row in rows for start in range(0, len(row) - size + 1, size)]
    return Shape(scope, size, tuple(groups))


def rounds(ranks: Sequence[int]) -> Iterator[tuple[tuple[int, int], ...]]:
    """A tournament: every pair meets once, in p - 1 rounds (p for an odd number) of pairs that share nobody.

    The circle method: the first stays, the others go round.
    """
    circle: list[int | None] = [*ranks, *([None] if len(ranks) % 2 else [])]
    for _ in range(len(circle) - 1):
        facing = zip(circle[: len(circle) // 2], reversed(circle), strict=False)
        yield tuple(sorted((min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None))
        circle = [circle[0], circle[-1], *circle[1:-1]]


def without_dead(ranks: Sequence[int], dead: Iterable[tuple[int, int]]) -> list[int]:
    """Workers of which every two reach each other: whoever misses most others leaves first (of equals the last)."""
    left, links = list(ranks), {frozenset(pair) for pair in dead}
    while True:
        missed = {rank: sum(rank in link and link <= set(left) for link in links) for rank in left}
        worst = max(left, key=lambda rank: (missed[rank], rank), default=None)
        if worst is None or not missed[worst]:
            return left
        left.remove(worst)


def rails(hosts: Sequence[Ranks]) -> list[tuple[tuple[int, int], ...]]:
    """The same of hosts: all workers of two of them talk at once, the j-th to the j-th."""
    return [
        tuple((min(pair), max(pair)) for a, b in pairs for pair in zip(hosts[a], hosts[b], strict=False))
        for pairs in rounds(range(len(hosts)))
    ]


def crossings(racks: Sequence[Ranks], hosts: Sequence[Ranks]) -> list[tuple[tuple[int, int], ...]]:
    """The same of racks of hosts (numbers in `hosts`): as many as can cross between two racks at once."""
    workers = [tuple(rank for host in rack for rank in hosts[host]) for rack in racks]
    return rails(workers)
