"""Pairs: what every two workers sustain in each direction, in a tournament of disjoint pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from .links_clock import finish
from .links_group import Group
from .links_peers import Peers, first_line

_TINY_BYTES = 64
_FIRST_BYTES = 2**16
_MOST_BYTES = 2**26
_LONG_S = 0.03  # a message this long is bandwidth and neither latency nor what a shaper lets pass, whatever the link
_REPEATS = 5

Typical = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class Pair:
    """Between two workers: rates in bytes per second there and back, and the latency of an empty message."""

    a: int
    b: int
    there_bytes_per_s: float
    back_bytes_per_s: float
    latency_s: float

    def row(self) -> list[float]:
        """As JSON holds it."""
        return [self.a, self.b, self.there_bytes_per_s, self.back_bytes_per_s, self.latency_s]


def measure_pairs(
    peers: Peers, name: str, tournament: Sequence[Sequence[tuple[int, int]]], budget_s: float, typical: Typical = min
) -> dict[str, Any]:
    """`pairs` of which this worker is the first (rows of `Pair`), and those that do not answer with what the library
    says, `dead`: {"0-3": ...}. All pairs of a round are busy at once, so that each gets what it has while others use
    theirs. Raises Interrupted with what there is by then where a worker does not come back.
    """
    found: list[list[float]] = []
    dead: dict[str, str] = {}
    try:
        _measure_all(peers, name, tournament, budget_s, typical, found, dead)
    except RuntimeError as error:
        raise Interrupted(first_line(error), {"pairs": found, "dead": dead, "again": True}) from error
    return {"pairs": found, "dead": dead}


class Interrupted(RuntimeError):
    """A worker is gone; `rows`: what `measure_pairs` has until then, and that it is to be measured again."""

    def __init__(self, words: str, rows: dict[str, Any]) -> None:
        super().__init__(words)
        self.rows = rows


def _measure_all(
    peers: Peers,
    name: str,
    tournament: Sequence[Sequence[tuple[int, int]]],
    budget_s: float,
    typical: Typical,
    found: list[list[float]],
    dead: dict[str, str],
) -> None:
    for number, pairs in enumerate(tournament):
        own = next((pair for pair in pairs if peers.rank in pair), None)
        peers.together()
        if own is None:
            continue
        try:
            pair = _measured(peers, own, f"{name} {number}", budget_s / len(tournament), typical)
        except RuntimeError as error:
            dead["-".join(map(str, own))] = first_line(error)
            continue
        if peers.rank == pair.a:
            found.append(pair.row())
    peers.together()


def _measured(peers: Peers, own: tuple[int, int], name: str, budget_s: float, typical: Typical) -> Pair:
    group = peers.group(name, own)
    latency_s = median(_directions(peers, group, _TINY_BYTES)[0] for _ in range(2 * _REPEATS)) / 2
    size, end_s = _FIRST_BYTES, perf_counter() + budget_s
    while max(_directions(peers, group, size)) < _LONG_S + latency_s and size < _MOST_BYTES:
        size *= 4
    small: list[tuple[float, float]] = []
    large: list[tuple[float, float]] = []
    while len(large) < 3 or (len(large) < _REPEATS and group.largest([perf_counter() - end_s])[0] < 0):
        small.append(_directions(peers, group, size // 4))
        large.append(_directions(peers, group, size))
    ways = [([row[way] for row in small], [row[way] for row in large]) for way in range(2)]
    rates = [rate(size - size // 4, *seconds, typical) for seconds in ways]
    return Pair(own[0], own[1], rates[0], rates[1], latency_s)


def rate(more_bytes: int, small_s: Sequence[float], large_s: Sequence[float], typical: Typical = min) -> float:
    """Bytes per second of what a large message has more than a small one: without latency, and without what shapers let
    pass at once. Of the fastest of each where a pair has its path for itself: what disturbs a machine delays some
    messages, a slow link delays all, and the medians of so few were late where two of three were. Where pairs share a
    path (`median`) the fastest are those that the others left alone: it gave two hosts that share an uplink nearly all
    of it each."""
    more_s = typical(large_s) - typical(small_s)
    return more_bytes / (more_s if more_s > 0 else typical(large_s))


def _directions(peers: Peers, group: Group, size_bytes: int) -> tuple[float, float]:
    """Seconds until an empty answer to a message of so many bytes is there: from the first to the second, and back.

    Each end times its own message; the slower clock is nobody's: the ends tell each other.
    """
    finish(peers.device)
    own: list[float] = [0.0, 0.0]
    for sender in range(2):
        seconds = group.answered(sender, size_bytes)
        if group.place == sender:
            own[sender] = seconds
    there_s, back_s = group.largest(own)
    return there_s, back_s
