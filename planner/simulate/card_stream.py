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
from .data_stream import DataStreams

_ROUNDING = 1e-12


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
    _end_s: float = 0.0  # of the flow, as far as `data` knows

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

    def tell(self) -> None:
        """Let an action that is about to begin know how late collectives are by now."""
        if self._flow is not None:
            self._ends_at(self._flow.end_s)

    def _ends_at(self, end_s: float) -> None:
        late_s = end_s - self._end_s
        if abs(late_s) > _ROUNDING * end_s:
            self.data.delay(self.rank, self._end_s, late_s)
            self._end_s = end_s

    def _first(self, now_s: float) -> None:
        start_s = self.data.log[self._queue[0]].start_s
        if start_s > now_s:
            self.clock.at(start_s, self._begin, None)
        else:
            self._begin(None, now_s)

    def _begin(self, _: object, now_s: float) -> None:
        planned = self.data.log[self._queue[0]]
        busy_s = self.data.seconds_of(planned)
        seconds = max(busy_s, planned.end_s - now_s)
        takes = self.use.of_data(self.rank, min(1.0, busy_s / seconds))
        self._flow, self._end_s = Flow(seconds, takes, self._done, now_s), planned.end_s
        self.cards.begin(self._flow, now_s)

    def _done(self, begin_s: float, now_s: float) -> None:
        place = self._queue.popleft()
        self._ends_at(now_s)
        self._flow = None
        planned = self.data.log[place]
        if now_s > planned.end_s:
            self.data.log[place] = replace(planned, start_s=begin_s, end_s=now_s)
        if self._queue:
            self._first(now_s)
        else:
            self.data.free_s[self.rank] = now_s
            self.idle(self.rank, now_s)
