"""The event interpreter where ranks have network cards that several things want at once (`card.py`).

Everything is as `engine.py` says, but that events come in the order of time: a transfer shares the cards at its two
ends with transfers over the ranks' other borders and with their data-parallel collectives, for as long as they meet.
What meets nothing takes what it takes there. Where collectives take the cores a rank waits for the slower collective
itself; `card_stream.py` has those that run beside compute.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from dataclasses import dataclass

from ..schedule import FIRST_FORWARD, GRADIENT, HALF, LAST_BACKWARD, Schedule
from ..schedule.program import PASS, Instruction
from .card import Cards, Clock, Event, Flow
from .card_stream import Stream
from .card_use import CardUse, card_use
from .data_stream import Collective, DataStreams
from .work import Work

_NOW = -math.inf


@dataclass(slots=True)
class CardedPlay:
    """What happened: by slot, as in engine.Played. `done_s`: of each rank, its late reductions too."""

    starts_s: list[float]
    ends_s: list[float]
    arrivals_s: list[float]
    log: list[Collective]
    done_s: list[float]
    passed: list[tuple[int, int, float, float]]  # rank, group, begin, end


@dataclass(frozen=True, slots=True)
class Seconds:
    """What the interpreter looks up: compute by group of instructions, what is sent before and after a pass by group,
    and transfers by link."""

    compute: list[float]
    before: list[float]
    after: list[float]
    hops: list[float]


def shares_cards(schedule: Schedule, work: Work) -> bool:
    """Whether anything could meet on a card: messages with others, or with collectives."""
    cards = work.cards
    return cards is not None and schedule.ranks > 1 and work.transfer_s > 0 and any(map(any, cards.borders))


def play_carded(schedule: Schedule, work: Work, seconds: Seconds, size: int) -> CardedPlay:
    """Play a step of `size` slots up to its last gradient."""
    return _Player(schedule, work, seconds, size).play()


class _Player:
    """State of one play."""

    def __init__(self, schedule: Schedule, work: Work, seconds: Seconds, size: int):
        ranks = schedule.ranks
        self._work, self._seconds, self._stages = work, seconds, schedule.stages
        self._rows, self._place = _rows(schedule), [0] * ranks
        self._to_come = Counter(each.slot for each in schedule.program if each.turn & PASS)
        self._data = DataStreams(schedule, work)
        self._turns = self._data.turns if work.hides else 0
        self._found = CardedPlay([0.0] * size, [0.0] * size, [math.inf] * size, self._data.log, [0.0] * ranks, [])
        self._found.arrivals_s[-1] = _NOW  # the slot that is always there
        self._waiting = defaultdict[int, list[int]](list)  # by slot: ranks that need it
        self._clock = Clock()
        self._cards = Cards(self._clock)
        self._use: CardUse = card_use(schedule, work)
        self._queues = [deque[int]() for _ in seconds.hops]  # by link: results on their way, the first of them moving
        self._over = [False] * ranks
        self._streams = [
            Stream(rank, self._data, self._cards, self._clock, self._use, self._late if work.hides else _nothing)
            for rank in range(ranks)
        ]

    def play(self) -> CardedPlay:
        """All of it."""
        for rank, stream in enumerate(self._streams):
            stream.follow(0, 0.0)
            self._next(rank, 0.0)
        self._clock.run()
        return self._found

    def _next(self, rank: int, now_s: float) -> None:
        """A rank is free."""
        place, row = self._place[rank], self._rows[rank]
        if place == len(row):
            self._over[rank] = True
            self._late(rank, now_s)
        elif self._work.hides or not self._collective(rank, row[place], "gather", self._ready, now_s):
            self._ready(rank, now_s)

    def _collective(self, rank: int, step: Instruction, name: str, then: Event, now_s: float) -> bool:
        """Where collectives take the cores: what a rank does of this name with an action, if anything."""
        turn, zero, data = step.turn, self._work.zero, self._data
        if name == "gather":
            due, each_s = turn & FIRST_FORWARD or (zero == 3 and not (turn & HALF and turn & GRADIENT)), data.gather_s
        else:
            due, each_s = turn & LAST_BACKWARD or (zero >= 2 and turn & GRADIENT), data.reduce_s
        stage = step.group % self._stages
        if turn & PASS or not due or not each_s[stage]:
            return False

        def done(_: object, end_s: float) -> None:
            self._found.log.append(Collective(rank, name, stage, step.slot, now_s, end_s))
            then(rank, end_s)

        self._cards.begin(Flow(each_s[stage], self._use.of_data(rank), done, None), now_s)
        return True

    def _ready(self, rank: int, now_s: float) -> None:
        """A rank could begin its next action, if what that needs is there."""
        step = self._rows[rank][self._place[rank]]
        arrival_s = self._found.arrivals_s[step.needed]
        if arrival_s == math.inf:
            self._waiting[step.needed].append(rank)
            return
        begin_s = arrival_s + self._seconds.before[step.group] if step.turn & PASS else arrival_s
        if begin_s > now_s:
            self._clock.at(begin_s, self._compute, rank)
        else:
            self._compute(rank, now_s)

    def _compute(self, rank: int, now_s: float) -> None:
        step = self._rows[rank][self._place[rank]]
        seconds = self._seconds.compute[step.group]
        begin_s, end_s = now_s, now_s + seconds
        if step.turn & PASS:
            self._found.passed.append((rank, step.group, begin_s, end_s))
        else:
            if step.turn & self._turns:
                stage, known = step.group % self._stages, len(self._found.log)
                self._streams[rank].tell(now_s)
                begin_s, end_s, _ = self._data.act(step.turn, step.slot, stage, rank, seconds, now_s, now_s)
                self._streams[rank].follow(known, now_s)
            self._found.starts_s[step.slot] = begin_s
        self._clock.at(end_s, self._computed, rank)

    def _computed(self, rank: int, now_s: float) -> None:
        step, found = self._rows[rank][self._place[rank]], self._found
        self._place[rank] += 1
        found.ends_s[step.slot] = now_s
        if step.turn & PASS:
            self._passed(step, now_s)
        elif self._seconds.hops[step.link]:
            self._send(step.slot, step.link, now_s)
        else:
            self._arrive(step.slot, now_s, now_s)
        if self._work.hides or not self._collective(rank, step, "reduce", self._next, now_s):
            self._next(rank, now_s)

    def _passed(self, step: Instruction, now_s: float) -> None:
        """Others wait for a pass until its last rank has been through it."""
        self._to_come[step.slot] -= 1
        if not self._to_come[step.slot]:
            self._arrive(step.slot, now_s + self._seconds.after[step.group], now_s)

    def _send(self, slot: int, link: int, now_s: float) -> None:
        queue = self._queues[link]
        queue.append(slot)
        if len(queue) == 1:
            self._cards.begin(Flow(self._seconds.hops[link], self._use.of_link[link], self._sent, link), now_s)

    def _sent(self, link: int, now_s: float) -> None:
        queue = self._queues[link]
        slot = queue.popleft()
        if queue:
            self._cards.begin(Flow(self._seconds.hops[link], self._use.of_link[link], self._sent, link), now_s)
        self._arrive(slot, now_s, now_s)

    def _arrive(self, slot: int, arrival_s: float, now_s: float) -> None:
        self._found.arrivals_s[slot] = arrival_s
        for rank in self._waiting.pop(slot, ()):
            self._ready(rank, now_s)

    def _late(self, rank: int, now_s: float) -> None:
        """What follows a rank's last action and collective, once both are over."""
        if not self._over[rank] or self._streams[rank].is_busy:
            return
        free_s, late = self._data.free_s[rank], self._work.late_reduce_s
        if not late:
            self._found.done_s[rank] = max(now_s, free_s)
        elif free_s > now_s:
            self._clock.at(free_s, self._late, rank)
        else:
            slow = self._work.slow.data[rank] if self._work.slow.data else 1.0
            self._cards.begin(Flow(late[rank] * slow, self._use.of_data(rank), self._reduced, (rank, now_s)), now_s)

    def _reduced(self, which: tuple[int, float], now_s: float) -> None:
        rank, begin_s = which
        self._found.log.append(Collective(rank, "reduce", rank, None, begin_s, now_s))
        self._found.done_s[rank] = now_s


def _nothing(rank: int, now_s: float) -> None:
    """No stream to wait for."""


def _rows(schedule: Schedule) -> list[list[Instruction]]:
    """What each rank does, in order."""
    rows: list[list[Instruction]] = [[] for _ in range(schedule.ranks)]
    for step in schedule.program:
        rows[step.rank].append(step)
    return rows
