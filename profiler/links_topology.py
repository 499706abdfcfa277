"""Topology: what a measured matrix says of hosts: racks, groups of different cards, slow hosts, slow links.

Robust statistics, so that one disturbed sample moves nothing. The rules:

- A host's *card* is its best path: no path is better than the cards at its ends.
- A value is *slow* beside others of its class where it is more than 15 % below their median and beyond five median
  absolute deviations of them (of the logarithms, and these taken to be 1 % at least).
- Paths that use 85 % of the lesser card or more join hosts; where that leaves several parts, these are *racks*.
- Cards that differ by more than 15 % make *groups*, where at least two hosts and a quarter of all have such cards;
  fewer are slow hosts. Of two groups in racks of their own, each is judged by itself.
- Any other path that is slow beside those of its class is a slow link: inside racks by its share of the lesser card,
  between two racks as it is, and where it has less than 70 % of what pairs have that all cross at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import median

from .links_shapes import Ranks

SLOW = 0.85
"""Of what is usual; measured rates of equal links differ by some percent."""
_DEVIATIONS = 5
_LEAST_SPREAD = 0.01
_SHARE = 0.25
_SHARE_BY_CHANCE = 0.7
"""Of what pairs on one path have side by side: one of them may have had that little beside another."""

Rates = Mapping[tuple[int, int], float]
"""Bytes per second between hosts a < b, of whole hosts, in the slower direction."""


@dataclass(frozen=True, slots=True)
class Slow:
    """A host (one number) or a link (two) below what is usual in its class, in bytes per second."""

    hosts: Ranks
    rate: float
    usual: float


@dataclass(frozen=True, slots=True)
class Topology:
    """Hosts by number. Every host is in one rack and in one card group, whose rates `cards` has."""

    racks: tuple[Ranks, ...]
    groups: tuple[Ranks, ...]
    cards: tuple[float, ...]
    slow_hosts: tuple[Slow, ...]
    slow_links: tuple[Slow, ...]
    across: Mapping[tuple[int, int], float]  # usual rate between racks a < b


def find_topology(hosts: int, rates: Rates, crossing: Rates | None = None) -> Topology:
    """What the rates of pairs say; pairs that were not measured say nothing. `crossing`: while all that can cross
    between racks, where that was measured."""
    best = [max((rate for pair, rate in rates.items() if host in pair), default=0.0) for host in range(hosts)]
    racks = _racks(hosts, rates, best)
    groups, slow_hosts = _groups(best)
    cards = tuple(median(best[host] for host in group) for group in groups)
    links, across = _links(rates, racks, best, crossing or {})
    return Topology(racks, groups, cards, tuple(slow_hosts), tuple(links), across)


def host_pairs(hosts: Sequence[Ranks], rows: Iterable[Sequence[float]]) -> dict[tuple[int, int], float]:
    """Rates of whole hosts from rows of `Pair` between their workers: the sum of what pairs had at the same time."""
    host_of = {rank: index for index, host in enumerate(hosts) for rank in host}
    found: dict[tuple[int, int], list[float]] = {}
    for first, second, there, back, *_ in rows:
        a, b = host_of.get(int(first)), host_of.get(int(second))
        if a is not None and b is not None and a != b:
            sums = found.setdefault((min(a, b), max(a, b)), [0.0, 0.0])
            ways = (there, back) if a < b else (back, there)
            sums[0], sums[1] = sums[0] + ways[0], sums[1] + ways[1]
    return {pair: min(ways) for pair, ways in sorted(found.items())}


def is_slow(value: float, others: Sequence[float]) -> bool:
    """The rule of this module. What carries nothing is slow beside anything that does."""
    usual = median(others)
    if min(value, usual) <= 0:
        return value < usual
    spread = median(abs(math.log(other / usual)) for other in others if other > 0)
    distance = math.log(usual / value)
    return value < SLOW * usual and distance > _DEVIATIONS * max(spread, _LEAST_SPREAD)


def parts(members: int, joined: Iterable[tuple[int, int]]) -> tuple[Ranks, ...]:
    """Connected parts, in the order of their first members."""
    part = {member: {member} for member in range(members)}
    for a, b in joined:
        if part[a] is not part[b]:
            part[a] |= part[b]
            part.update(dict.fromkeys(part[b], part[a]))
    return tuple(dict.fromkeys(tuple(sorted(each)) for each in part.values()))


def _racks(hosts: int, rates: Rates, best: Sequence[float]) -> tuple[Ranks, ...]:
    return parts(hosts, (pair for pair, rate in rates.items() if rate >= SLOW * min(best[host] for host in pair)))


def _groups(best: Sequence[float]) -> tuple[tuple[Ranks, ...], list[Slow]]:
    """Hosts by their cards, in the order of their numbers, and the hosts that are slow in the group they are in."""
    bands = _bands(best)
    enough = [band for band in bands if len(band) >= max(2, _SHARE * len(best))] or [max(bands, key=len)]
    groups, slow = [list(band) for band in enough], []
    for band in bands:
        if band in enough:
            continue
        for host in band:
            own = _home(best, host, groups)
            usual = [best[other] for other in own if other != host]
            own.append(host)
            if is_slow(best[host], usual):
                slow.append(Slow((host,), best[host], median(usual)))
    return tuple(sorted(tuple(sorted(group)) for group in groups)), slow


def _home(best: Sequence[float], host: int, groups: list[list[int]]) -> list[int]:
    """The group whose cards are next above a host's, else the slowest group."""
    usual = {index: median(best[each] for each in group) for index, group in enumerate(groups)}
    above = [index for index in usual if usual[index] >= best[host]]
    return groups[min(above or usual, key=lambda index: abs(usual[index] - best[host]))]


def _bands(best: Sequence[float]) -> list[Ranks]:
    """Hosts whose cards follow each other without a gap of 15 %."""
    order = sorted(range(len(best)), key=lambda host: (best[host], host))
    bands: list[list[int]] = [order[:1]]
    for before, host in pairwise(order):
        if best[before] >= SLOW * best[host]:
            bands[-1].append(host)
        else:
            bands.append([host])
    return [tuple(band) for band in bands]


def _links(
    rates: Rates, racks: Sequence[Ranks], best: Sequence[float], crossing: Rates
) -> tuple[list[Slow], dict[tuple[int, int], float]]:
    """Slow links, and the usual rate from rack to rack. Of two pairs on one uplink one may have had all of it, the
    other its share: that one is not slow."""
    rack_of = {host: index for index, rack in enumerate(racks) for host in rack}
    classes: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for pair in rates:
        ends = tuple(sorted(rack_of[host] for host in pair))
        classes.setdefault(ends if ends[0] != ends[1] else (), []).append(pair)
    slow: list[Slow] = []
    for ends, pairs in classes.items():
        shares = {pair: rates[pair] / (1.0 if ends else min(best[host] for host in pair)) for pair in pairs}
        fair = median([crossing[pair] for pair in pairs if ends and pair in crossing] or [math.inf])
        for pair in pairs:
            if rates[pair] < _SHARE_BY_CHANCE * fair and is_slow(shares[pair], list(shares.values())):
                slow.append(Slow(pair, rates[pair], median(shares.values()) * rates[pair] / shares[pair]))
    across = {}
    for a, b in combinations(range(len(racks)), 2):
        between = [rates[pair] for pair in classes.get((a, b), [])]
        if between:
            across[a, b] = median(between)
    return sorted(slow, key=lambda each: each.hosts), across
