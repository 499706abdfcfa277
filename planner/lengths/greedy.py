"""Greedy: a good assignment of a large step, fast.

For a target time of a round, every sequence takes the degree in which its lane-seconds are fewest among those that
meet the target alone (Multifit's idea, Coffman, Garey and Johnson 1978, with moldable jobs). Wide groups are opened
first, as many as their sequences ask for; all lanes that are left are groups of the lowest degree. Sequences then go,
the longest first, where they are done soonest (LPT, Graham 1969). Groups are dealt to rounds so that those of one round
take about as long.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .assignment import Pack, timed
from .bound import Line, lines
from .instance import Floats, Instance
from .integers import Integers


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


Rounds = list[list[Pack]]


def step_s(rounds: Rounds) -> float:
    """Seconds of all rounds."""
    return sum(max(pack.seconds for pack in packs) for packs in rounds)


def greedy(
    instance: Instance, rounds: int, target_s: float, *, loose: bool = False, waste: float | None = None
) -> Rounds | None:
    """The groups of `rounds` rounds or more; None where so many do not hold the sequences this way. `loose`: as many
    wide groups as keep the target, rather than as few as their work fills. `waste`: a sequence goes to the widest group
    that keeps the target and takes no more than this share above the fewest lane-seconds; None: where it ends first."""
    line = line_of(instance)
    places = _degrees(instance, line, target_s)
    bins = _open(instance, rounds, target_s, line, places, loose)
    if bins is None or not _fill(instance, line, bins, places, target_s - line[0], waste):
        return None
    return deal(instance.lanes, timed(instance, [(instance.degrees[each.place], each.sequences) for each in bins]))


def _degrees(instance: Instance, line: Line, target_s: float) -> list[int]:
    """The place of each sequence's degree."""
    alone, areas = instance.alone_s(), instance.widths * (line[1] * instance.tokens + instance.core_s)
    cheapest = np.argmin(np.where(alone <= target_s, areas, np.inf), axis=1)
    fastest = np.argmin(alone, axis=1)
    chosen: list[int] = np.where(alone.min(axis=1) <= target_s, cheapest, fastest).tolist()
    return chosen


def _open(
    instance: Instance, rounds: int, target_s: float, line: Line, places: list[int], loose: bool
) -> list[Bin] | None:
    """Groups for the sequences of each degree; the lowest one gets the lanes that are left."""
    free, bins = rounds * instance.lanes, []
    chosen = np.array(places)
    for place in range(len(instance.degrees) - 1, 0, -1):
        members = np.flatnonzero(chosen == place)
        if not len(members):
            continue
        tokens = instance.tokens[members, place]
        work_s = line[1] * tokens + instance.core_s[members, place]
        room_s, capacity = max(target_s - line[0], float(work_s.max())), int(instance.capacity[place])
        wanted = max(1, math.ceil(work_s.sum() / room_s), math.ceil(tokens.sum() / capacity))
        if loose:
            wanted = _bins(work_s, tokens, room_s, capacity)
        count = min(wanted, free // instance.degrees[place])
        free -= count * instance.degrees[place]
        bins += [Bin(place) for _ in range(count)]
    bins += [Bin(0) for _ in range(free // instance.degrees[0])]
    return bins or None


def _bins(work_s: Floats, tokens: Integers, most_s: float, capacity: int) -> int:
    """How many groups hold so much work and so many tokens each: first fit, the longest first."""
    loads: list[list[float]] = []
    for place in np.argsort(-work_s, kind="stable"):
        seconds, held = float(work_s[place]), int(tokens[place])
        for load in loads:
            if load[0] + seconds <= most_s and load[1] + held <= capacity:
                load[0] += seconds
                load[1] += held
                break
        else:
            loads.append([seconds, held])
    return len(loads)


def _fill(
    instance: Instance, line: Line, bins: list[Bin], places: list[int], room_s: float, waste: float | None
) -> bool:
    """Put every sequence where it is done soonest; False where none of the groups has room for one."""
    cost_s: list[list[float]] = (line[1] * instance.tokens + instance.core_s).tolist()
    tokens: list[list[int]] = instance.tokens.tolist()
    degrees = instance.degrees
    queues = {place: _Queue(place, int(instance.capacity[place])) for place in {each.place for each in bins}}
    for number, each in enumerate(bins):
        queues[each.place].loads.append((0.0, number))  # equal keys ascend: heaps already
    for i in sorted(range(instance.count), key=lambda i: (-places[i], -cost_s[i][places[i]], i)):
        ends = [(queue.least_s(bins, tokens[i][place]) + cost_s[i][place], queue) for place, queue in queues.items()]
        best_s, best = min(ends, key=lambda end: end[0])
        if math.isinf(best_s):
            return False
        if waste is not None:
            work = {
                queue.place: degrees[queue.place] * cost_s[i][queue.place] for end_s, queue in ends if end_s <= room_s
            }
            least = min(work.values(), default=0.0) * (1 + waste)
            widest = max((place for place, each in work.items() if each <= least), default=best.place)
            best = queues[widest]
        best.add(bins, i, cost_s[i][best.place], tokens[i][best.place])
    return True


@dataclass(slots=True)
class _Queue:
    """Groups of one degree by their loads; those without room for the sequence at hand wait by their room."""

    place: int
    capacity: int
    loads: list[tuple[float, int]] = field(default_factory=list)
    waiting: list[tuple[int, int]] = field(default_factory=list)  # tokens held, group: the emptiest first

    def least_s(self, bins: list[Bin], tokens: int) -> float:
        """Load of the first group with room for so many tokens; infinite where there is none."""
        most = self.capacity - tokens
        while self.waiting and self.waiting[0][0] <= most:
            number = heapq.heappop(self.waiting)[1]
            heapq.heappush(self.loads, (bins[number].load_s, number))
        while self.loads and bins[self.loads[0][1]].tokens > most:
            number = heapq.heappop(self.loads)[1]
            heapq.heappush(self.waiting, (bins[number].tokens, number))
        return self.loads[0][0] if self.loads else math.inf

    def add(self, bins: list[Bin], i: int, seconds: float, tokens: int) -> None:
        """Put a sequence into the group that `least_s` found."""
        number = self.loads[0][1]
        chosen = bins[number]
        chosen.load_s += seconds
        chosen.tokens += tokens
        chosen.sequences.append(i)
        heapq.heapreplace(self.loads, (chosen.load_s, number))


def deal(lanes: int, packs: Iterable[Pack]) -> Rounds:
    """Groups to rounds: by time or by width, whichever ends sooner."""
    by_time = sorted(packs, key=lambda pack: (-pack.seconds, -pack.degree, pack.sequences))
    by_width = sorted(by_time, key=lambda pack: -pack.degree)
    return min((_rounds(lanes, order) for order in (by_time, by_width)), key=step_s)


def _rounds(lanes: int, packs: Iterable[Pack]) -> Rounds:
    """Each group into the first round with enough free lanes."""
    free: list[int] = []
    rounds: Rounds = []
    start = 0  # the first round with a free lane
    for pack in packs:
        place = next((number for number in range(start, len(free)) if free[number] >= pack.degree), len(free))
        if place == len(free):
            free.append(lanes)
            rounds.append([])
        free[place] -= pack.degree
        rounds[place].append(pack)
        while start < len(free) and not free[start]:
            start += 1
    return rounds
