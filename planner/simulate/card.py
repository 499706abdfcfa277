"""Card: what a rank's network card sends, or receives, at once; flows that meet there share it.

Both directions of a card are apart (full duplex). What goes over one at the same time gets equal parts of it, but no
more than it takes alone: what one flow cannot use the others have. So do connections of TCP behind one queue (gloo: one
connection a peer, its messages in order), and queue pairs of an RDMA card that are served in turns (NCCL). A flow goes
at the pace of the busier of its two ends; what it then leaves at the other end is not given away again, so that nothing
is faster here than it would be.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

_ROUNDING = 1 + 1e-9
"""Shares of what is taken add up to one."""

Event = Callable[[Any, float], None]
"""What happens to something, at some time."""


class Clock:
    """Events in the order of their times; of equal times, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Event, Any]] = []
        self._count = 0

    def at(self, time_s: float, event: Event, thing: Any) -> None:
        """`event(thing, time_s)` is to happen."""
        self._count += 1
        heapq.heappush(self._heap, (time_s, self._count, event, thing))

    def run(self) -> None:
        """Until nothing is left to happen."""
        heap, pop = self._heap, heapq.heappop
        while heap:
            time_s, _, event, thing = pop(heap)
            event(thing, time_s)


class Flow:
    """Something that takes `seconds` alone, and of each direction of a card that it goes over a share of it."""

    __slots__ = ("done", "left_s", "pace", "since_s", "takes", "thing", "turn")

    def __init__(self, seconds: float, takes: Sequence[tuple[Direction, float]], done: Event, thing: Any):
        self.left_s, self.takes, self.done, self.thing = seconds, takes, done, thing
        self.pace, self.since_s, self.turn = 0.0, 0.0, 0

    def end_s(self, now_s: float) -> float:
        """When it is there if it has all that it takes from now on."""
        return now_s + max(0.0, self.left_s - self.pace * (now_s - self.since_s))


Direction = list[tuple[Flow, float]]
"""What one direction of a card carries now: flows, and the share that each takes of it alone."""


class Cards:
    """All flows that are on their way."""

    def __init__(self, clock: Clock):
        self._clock = clock

    def begin(self, flow: Flow, now_s: float) -> None:
        """A flow sets out; `flow.done(flow.thing, time)` follows when it is there."""
        alone = True
        for direction, share in flow.takes:
            if direction:
                alone = False
            direction.append((flow, share))
        flow.since_s = now_s
        if alone:
            flow.pace = 1.0
            self._clock.at(now_s + flow.left_s, self._arrive, (flow, 0))
        else:
            self._share(flow, now_s)

    def _arrive(self, which: tuple[Flow, int], now_s: float) -> None:
        flow, turn = which
        if turn != flow.turn:
            return  # it was slowed, or sped up, in between
        others = False
        for direction, share in flow.takes:
            direction.remove((flow, share))
            others |= bool(direction)
        if others:
            self._share(flow, now_s)
        flow.done(flow.thing, now_s)

    def _share(self, changed: Flow, now_s: float) -> None:
        """New paces for all that go where something came or went."""
        for flow in dict.fromkeys(flow for direction, _ in changed.takes for flow, _ in direction):
            pace = min(_pace(direction, share) for direction, share in flow.takes)
            if pace == flow.pace:
                continue
            flow.left_s -= flow.pace * (now_s - flow.since_s)
            flow.pace, flow.since_s, flow.turn = pace, now_s, flow.turn + 1
            self._clock.at(now_s + max(0.0, flow.left_s) / pace, self._arrive, (flow, flow.turn))


def _pace(direction: Direction, share: float) -> float:
    """Of a flow with this share where others are: 1 while there is room for all, else equal parts for all who can use
    them (max-min fairness)."""
    shares = sorted(each for _, each in direction)
    left, count = 1.0, len(shares)
    if sum(shares) <= _ROUNDING:
        return 1.0
    for place, each in enumerate(shares):
        part = left / (count - place)
        if each >= part:
            return min(1.0, part / share)
        left -= each
    return 1.0
