"""Greedy: a good assignment of a large step, fast.

For a target time of a round, every sequence takes the degree in which its lane-seconds are fewest among those that meet
the target alone (Multifit's idea, Coffman, Garey and Johnson 1978, with moldable jobs). Wide groups are opened first, as
many as their sequences ask for; all lanes that are left are groups of the lowest degree. Sequences then go, the longest
first, where they are done soonest (LPT, Graham 1969). Groups are dealt to rounds so that those of one round take about
as long.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .assignment import Assignment, Pack, assemble
from .bound import lines
from .instance import Floats, Instance

Line = tuple[float, float]


@dataclass(slots=True)
class Bin:
    """A group that is being filled; `load_s` without the line's intercept."""

    place: int  # of its degree
    load_s: float = 0.0
    tokens: int = 0
    sequences: list[int] = field(default_factory=list)


def line_of(instance: Instance) -> Line:
    """The straight line that loads are compared by: through the cost of the largest pack, under the others."""
    return list(lines(instance))[-1]


def greedy(instance: Instance, rounds: int, target_s: float) -> Assignment | None:
    """An assignment of `rounds` rounds or more; None where so many do not hold the sequences this way."""
    line = line_of(instance)
    places = _degrees(instance, line, target_s)
    bins = _open(instance, rounds, target_s, line, places)
    if bins is None or not _fill(instance, line, bins, places):
        return None
    packs = [(instance.degrees[each.place], tuple(each.sequences)) for each in bins if each.sequences]
    return deal(instance, packs)


def _degrees(instance: Instance, line: Line, target_s: float) -> list[int]:
    """The place of each sequence's degree."""
    alone, areas = instance.alone_s(), instance.widths * (line[1] * instance.tokens + instance.core_s)
    cheapest = np.argmin(np.where(alone <= target_s, areas, np.inf), axis=1)
    fastest = np.argmin(alone, axis=1)
    chosen: list[int] = np.where(alone.min(axis=1) <= target_s, cheapest, fastest).tolist()
    return chosen


def _open(
    instance: Instance, rounds: int, target_s: float, line: Line, places: list[int]
) -> list[Bin] | None:
    """Groups for the sequences of each degree; the lowest one gets the lanes that are left."""
    free, bins = rounds * instance.lanes, []
    chosen = np.array(places)
    for place in range(len(instance.degrees) - 1, 0, -1):
        members = np.flatnonzero(chosen == place)
        if not len(members):
            continue
        tokens = int(instance.tokens[members, place].sum())
        work_s = line[1] * tokens + float(instance.core_s[members, place].sum())
        wanted = max(work_s / max(target_s - line[0], target_s / 8), tokens / int(instance.capacity[place]))
        count = min(max(1, math.ceil(wanted)), free // instance.degrees[place])
        free -= count * instance.degrees[place]
        bins += [Bin(place) for _ in range(count)]
    bins += [Bin(0) for _ in range(free // instance.degrees[0])]
    return bins or None


def _fill(instance: Instance, line: Line, bins: list[Bin], places: list[int]) -> bool:
    """Put every sequence where it is done soonest; False where none of the groups has room for one."""
    cost_s: list[list[float]] = (line[1] * instance.tokens + instance.core_s).tolist()
    tokens: list[list[int]] = instance.tokens.tolist()
    capacity: list[int] = instance.capacity.tolist()
    heaps: dict[int, list[tuple[float, int]]] = {}
    for number, each in enumerate(bins):
        heaps.setdefault(each.place, []).append((0.0, number))  # equal keys ascend: heaps already
    order = sorted(range(instance.count), key=lambda i: (-places[i], -cost_s[i][places[i]], i))
    least = min(min(row) for row in tokens) if tokens else 0
    for i in order:
        found = _soonest(heaps, bins, cost_s[i], tokens[i], capacity)
        if found is None:
            return False
        place, number = found
        chosen = bins[number]
        chosen.load_s += cost_s[i][place]
        chosen.tokens += tokens[i][place]
        chosen.sequences.append(i)
        if chosen.tokens + least <= capacity[place]:
            heapq.heappush(heaps[place], (chosen.load_s, number))
    return True


def _soonest(
    heaps: dict[int, list[tuple[float, int]]], bins: list[Bin], cost_s: list[float], tokens: list[int], capacity: list[int]
) -> tuple[int, int] | None:
    """The group with room in which a sequence ends first, taken off its heap: the place of its degree, its number."""
    best_s, best, aside = math.inf, None, []
    for place, heap in heaps.items():
        while heap and bins[heap[0][1]].tokens + tokens[place] > capacity[place]:
            aside.append((place, heapq.heappop(heap)))
        if heap and tokens[place] <= capacity[place] and heap[0][0] + cost_s[place] < best_s:
            best_s, best = heap[0][0] + cost_s[place], place
    number = -1 if best is None else heapq.heappop(heaps[best])[1]
    for place, entry in aside:
        heapq.heappush(heaps[place], entry)
    return None if best is None else (best, number)


def deal(instance: Instance, packs: Iterable[Pack]) -> Assignment:
    """Groups to rounds: by time or by width, whichever ends sooner."""
    from .assignment import pack_s

    timed = [(pack_s(instance, *pack), pack) for pack in packs]
    by_time = sorted(timed, key=lambda each: (-each[0], -each[1][0], each[1][1]))
    by_width = sorted(timed, key=lambda each: (-each[1][0], -each[0], each[1][1]))
    dealt = [assemble(instance, _rounds(instance.lanes, [pack for _, pack in order])) for order in (by_time, by_width)]
    return min(dealt, key=lambda each: each.seconds)


def _rounds(lanes: int, packs: list[Pack]) -> list[list[Pack]]:
    """Each group into the first round with enough free lanes."""
    free: list[int] = []
    rounds: list[list[Pack]] = []
    start = 0  # the first round with a free lane
    for degree, sequences in packs:
        place = next((number for number in range(start, len(free)) if free[number] >= degree), len(free))
        if place == len(free):
            free.append(lanes)
            rounds.append([])
        free[place] -= degree
        rounds[place].append((degree, sequences))
        while start < len(free) and not free[start]:
            start += 1
    return rounds


def targets_s(instance: Instance, rounds: int, bound_s: float) -> Floats:
    """Target times worth a try: multiples of the bound's share of a round, and the longest sequences alone."""
    alone = np.sort(instance.alone_s().min(axis=1))[::-1]
    steps = max(bound_s / rounds, float(alone[0]) * 0.0) * np.array([1.0, 1.02, 1.05, 1.1, 1.2, 1.4, 1.8, 2.5])
    return np.unique(np.concatenate([steps, alone[: min(3, len(alone))]]))
