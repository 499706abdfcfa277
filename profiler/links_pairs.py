"""Pairs: what every two workers sustain in each direction, in a tournament of disjoint pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

from .links_clock import finish
from .links_group import Group
from .links_peers import Peers, first_line

_TINY_BYTES = 64
_FIRST_BYTES = 2**16
_MOST_BYTES = 2**26
_LONG_S = 0.03  # a message this long is bandwidth and neither latency nor what a shaper lets pass, whatever the link
_REPEATS = 5

_MESSAGES = 7
"""That follow each other over a shared path, where they are slowest: pairs do not begin and end at once, but most of it
is side by side."""
_FEWEST = 3  # of their arrivals that are looked at
_SPARE = 3  # a long message may have been measured behind larger ones of others: so many more are sent

_T = TypeVar("_T")


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
    peers: Peers, name: str, tournament: Sequence[Sequence[tuple[int, int]]], budget_s: float, shared: bool = False
) -> dict[str, Any]:
    """`pairs` of which this worker is the first (rows of `Pair`), and those that do not answer with what the library
    says, `dead`: {"0-3": ...}. All pairs of a round are busy at once, so that each gets what it has while others use
    theirs: those of a `shared` path in both directions at once and all for about as long. Raises Interrupted with what
    there is by then where a worker does not come back.
    """
    found: list[list[float]] = []
    dead: dict[str, str] = {}
    try:
        _measure_all(peers, name, tournament, budget_s, shared, found, dead)
    except RuntimeError as error:
        raise Interrupted(first_line(error), {"pairs": found, "dead": dead, "again": True}) from error
    return {"pairs": found, "dead": dead}


class Interrupted(RuntimeError):
    """A worker is gone; `rows`: what `measure_pairs` has until then, and that it is to be measured again."""

    def __init__(self, words: str, rows: dict[str, Any]) -> None:
        super().__init__(words)
        self.rows = rows


@dataclass(frozen=True, slots=True)
class _Meeting:
    """A pair that reaches each other; how many bytes are a long message between them, and for how long."""

    own: tuple[int, int]
    group: Group
    latency_s: float
    size_bytes: int
    long_s: float


def _measure_all(
    peers: Peers,
    name: str,
    tournament: Sequence[Sequence[tuple[int, int]]],
    budget_s: float,
    shared: bool,
    found: list[list[float]],
    dead: dict[str, str],
) -> None:
    for number, pairs in enumerate(tournament):
        own = next((pair for pair in pairs if peers.rank in pair), None)
        peers.together()
        end_s = perf_counter() + budget_s / len(tournament)
        meeting = None if own is None else _tried(own, dead, partial(_met, peers, own, f"{name} {number}"))
        pair = None
        if shared:
            (lasts_s,) = peers.largest([0.0 if meeting is None else _MESSAGES * meeting.long_s])
            pair = None if meeting is None else _tried(meeting.own, dead, partial(_crossing, meeting, lasts_s))
        elif meeting is not None:
            pair = _tried(meeting.own, dead, partial(_in_turn, peers, meeting, end_s))
        if pair is not None and peers.rank == pair.a:
            found.append(pair.row())
    peers.together()


def _tried(own: tuple[int, int], dead: dict[str, str], ask: Callable[[], _T]) -> _T | None:
    """What was asked for, or the pair is `dead`."""
    try:
        return ask()
    except RuntimeError as error:
        dead["-".join(map(str, own))] = first_line(error)
        return None


def _met(peers: Peers, own: tuple[int, int], name: str) -> _Meeting:
    group, size_bytes = peers.group(name, own), _FIRST_BYTES
    latency_s = median(_directions(peers, group, _TINY_BYTES)[0] for _ in range(2 * _REPEATS)) / 2
    while (long_s := max(_directions(peers, group, size_bytes))) < _LONG_S + latency_s and size_bytes < _MOST_BYTES:
        size_bytes *= 4
    return _Meeting(own, group, latency_s, size_bytes, long_s)


def _in_turn(peers: Peers, meeting: _Meeting, end_s: float) -> Pair:
    """One direction after the other."""
    group, size_bytes = meeting.group, meeting.size_bytes
    small: list[tuple[float, float]] = []
    large: list[tuple[float, float]] = []
    while len(large) < 3 or (len(large) < _REPEATS and group.largest([perf_counter() - end_s])[0] < 0):
        small.append(_directions(peers, group, size_bytes // 4))
        large.append(_directions(peers, group, size_bytes))
    ways = [([row[way] for row in small], [row[way] for row in large]) for way in range(2)]
    there, back = (rate(size_bytes - size_bytes // 4, *seconds) for seconds in ways)
    return Pair(*meeting.own, there, back, meeting.latency_s)


def _crossing(meeting: _Meeting, lasts_s: float) -> Pair:
    """Both directions at once. Until `lasts_s` all pairs of the round are busy; what is later may have met nobody."""
    group, rates = meeting.group, [0.0, 0.0]
    apart_s = group.crossing(meeting.size_bytes, math.ceil(_SPARE * lasts_s / meeting.long_s))
    counted = max(_FEWEST, sum(end_s <= lasts_s for end_s in accumulate(apart_s)))
    rates[1 - group.place] = shared_rate(meeting.size_bytes, apart_s[:counted])
    there, back = group.largest(rates)
    return Pair(*meeting.own, there, back, meeting.latency_s)


def rate(more_bytes: int, small_s: Sequence[float], large_s: Sequence[float]) -> float:
    """Bytes per second of what a large message has more than a small one: without latency, and without what shapers let
    pass at once. Of the fastest of each: what disturbs a machine delays some messages, a slow link delays all, and the
    medians of so few were late where two of three were."""
    more_s = min(large_s) - min(small_s)
    return more_bytes / (more_s if more_s > 0 else min(large_s))


def shared_rate(size_bytes: int, apart_s: Sequence[float]) -> float:
    """Bytes per second of messages that follow each other where others want the path, too. The fastest are those that
    the others left alone, which gave two hosts that share an uplink nearly all of it each: so the median."""
    return size_bytes / median(apart_s)


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
