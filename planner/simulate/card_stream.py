"""Collectives beside compute, on a card that transfers use too.

`beside.py` says when a rank's collectives begin and end if nothing else wants its card: that is their pace, and of the
card they take what it needs. One that transfers make late makes all later ones of its rank late, and what waits for it
from then on; an action that has begun by then is not called back, so that a forward that waits for weights may be
played a little too short.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from .card import Cards, Clock, Event, Flow
from .card_use import CardUse
from .data_stream import Collective, DataStreams


@dataclass(slots=True)
class Stream:
    """The collectives of one rank. `idle(rank, now)` is told when the last of them is over."""

    rank: int
    data: DataStreams
    cards: Cards
    clock: Clock
    use: CardUse
    idle: Event
    _queue: deque[int] = field(default_factory=deque)  # places in the log; the first is waited for, or on its way
    _flow: Flow | None = None

    @property
    def is_busy(self) -> bool:
        return bool(self._queue)

    def follow(self, known: int, now_s: float) -> None:
        """Take up what has come to the log behind its first `known` entries."""
        log = self.data.log
        if not self.use.data[self.rank] or len(log) == known:
            return
        was_busy = self.is_busy
        self._queue.extend(place for place in range(known, len(log)) if log[place].rank == self.rank)
        if self._queue and not was_busy:
            self._first(now_s)

    def tell(self, now_s: float) -> None:
        """Let an action that is about to begin know when what is on its way, and what follows that, will be over, if no
        other traffic makes it later still: transfers are short."""
        if self._flow is None:
            return
        end_s, log = self._flow.end_s(now_s), self.data.log
        for number, place in enumerate(self._queue):
            planned = log[place]
            if number:
                begin_s = max(end_s, planned.start_s)
                end_s = begin_s + self._seconds(planned, begin_s)
            if planned.slot is None:
                self.data.gathered(planned.stage, self.rank, end_s)
        self.data.free_s[self.rank] = end_s

    def _first(self, now_s: float) -> None:
        start_s = self.data.log[self._queue[0]].start_s
        if start_s > now_s:
            self.clock.at(start_s, self._begin, None)
        else:
            self._begin(None, now_s)

    def _seconds(self, planned: Collective, begin_s: float) -> float:
        """As long as its compute takes from there on, and no less than it takes at its own pace."""
        return max(self.data.seconds_of(planned), planned.end_s - begin_s)

    def _begin(self, _: object, now_s: float) -> None:
        planned = self.data.log[self._queue[0]]
        seconds = self._seconds(planned, now_s)
        takes = self.use.of_data(self.rank, min(1.0, self.data.seconds_of(planned) / seconds))
        self._flow = Flow(seconds, takes, self._done, now_s)
        self.cards.begin(self._flow, now_s)

    def _done(self, begin_s: float, now_s: float) -> None:
        self.tell(now_s)
        place, self._flow = self._queue.popleft(), None
        if now_s > self.data.log[place].end_s:
            self.data.log[place] = replace(self.data.log[place], start_s=begin_s, end_s=now_s)
        if self._queue:
            self._first(now_s)
        else:
            self.data.free_s[self.rank] = now_s
            self.idle(self.rank, now_s)
