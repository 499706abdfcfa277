"""Passes: what every pipeline rank computes where embedding and output layer are spread over all of them
(vocabulary parallelism, arXiv:2411.05288).

    E m    the embedding of a microbatch: each rank looks up the rows that it holds; stage 0 begins with their sum
    S m    its output layer: logits of the rows that a rank holds, from the last stage's hidden states, and of each
           token three numbers that all ranks exchange
    G m    gradients of the output layer: with those numbers each rank has its part of the loss, of the gradient that
           the last stage goes backward with, and the gradient of its own rows
    T m    the embedding's backward: stage 0's input gradient becomes that of a rank's rows

No pass is a barrier: what others need of it is sent, and waited for where it is needed.

    F(0, m)                  after E(m) of all ranks
    S(m)                     after F(last, m)
    G(m)                     after S(m) of all ranks
    B(last, m), I(last, m)   after G(m) of all ranks
    T(m)                     after B(0, m), I(0, m)

Any schedule can have them. Its ranks are played, each action in its ticks; a rank takes S and G as soon as it is free,
E before stage 0 begins, T some time after stage 0 has ended. Every row is a part of the order of time of that one play,
as in `transfers.py`: of all that has not happened yet, what comes first in time has all that it needs.

So that all ranks have something to do while two rounds of messages go by, a schedule goes forward with two microbatches
more before its first backward (`drawn`; p + 2 inputs in flight under 1F1B, as section 5.2 of the paper has it for two
barriers), and no pass is listed for the moment in which it could begin: a rank that came to it a little too early would
wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

from .action import SECONDS, Action
from .order import DeadlockError, executable_order

if TYPE_CHECKING:
    from .schedule import Schedule

PassKind = Literal["E", "S", "G", "T"]
KINDS: tuple[PassKind, ...] = ("E", "S", "G", "T")

TICKS: dict[str, int] = {**{kind: 2 * each for kind, each in SECONDS.items()}, "S": 1, "G": 1}
"""Halves of the seconds of actions; a pass takes one."""
AHEAD, BEHIND = 4, 2
"""Ticks from E to the forward that needs it (no action takes longer), and from a backward to its T."""
LATE = 1
"""Ticks from what S or G needs to when a rank takes it, at the earliest."""
DRAWN = 2
"""Both were tried from 0 to 3, in the prices of llama-3.1-8b and 70b: with less, ranks wait for passes, at worst for
half of the step; more gains nothing."""


class Pass(NamedTuple):
    """One microbatch through embedding or output layer, on one rank."""

    kind: PassKind
    microbatch: int
    rank: int

    def __str__(self) -> str:
        return f"{self.kind} m{self.microbatch}"


class Played(NamedTuple):
    """An action or a pass, and when it runs."""

    step: Action | Pass
    begin: int
    end: int


_PASS, _PLAYED = partial(tuple.__new__, Pass), partial(tuple.__new__, Played)
"""Without a call of Python's own: there are tens of thousands."""


def drawn(schedule: Schedule) -> Schedule:
    """The same schedule with every forward before the last DRAWN backwards that it stood behind; with fewer, where that
    would never end."""
    for _ in range(DRAWN):
        found = replace(schedule, actions=tuple(map(_drawn, schedule.actions)))
        try:
            for _ in executable_order(found):
                pass
        except DeadlockError:
            break
        schedule = found
    return schedule


def _drawn(row: tuple[Action, ...]) -> tuple[Action, ...]:
    """Each forward one backward earlier."""
    forwards, before, backwards = list[Action](), list[int](), 0
    for action in row:
        if action[0] == "F":
            forwards.append(action)
            before.append(backwards)
        else:
            backwards += 1
    found, taken, backwards = list[Action](), 0, 0
    for action in row:
        if action[0] != "F":
            while taken < len(forwards) and before[taken] - 1 <= backwards:
                found.append(forwards[taken])
                taken += 1
            backwards += 1
            found.append(action)
    return (*found, *forwards[taken:])


def played(schedule: Schedule) -> list[Played]:
    """All actions and passes of a schedule, in the order of time. Raises DeadlockError for actions that never end."""
    found = [
        _PLAYED((_PASS((what, microbatch, rank)) if microbatch >= 0 else what, begin, end))
        for rank, what, microbatch, begin, end in _Play(schedule).run()
    ]
    ends = [each for each in found if isinstance(each.step, Action) and each.step.stage == 0]
    for action, begin, end in ends:
        if action.kind != "W":
            at = max(0, begin - AHEAD) if action.kind == "F" else end + BEHIND
            kind: PassKind = "E" if action.kind == "F" else "T"
            found += [_PLAYED((_PASS((kind, action.microbatch, rank)), at, at)) for rank in range(schedule.ranks)]
    return sorted(found, key=itemgetter(1, 2))


class _Step(NamedTuple):
    """An action with what the play asks about it, results being numbered: forwards stage by stage, then backwards (B or
    I), then G, and last one that is always there."""

    action: Action
    ticks: int
    needed: int  # the result of another rank, or of G
    made: int  # its own; -1: none that anybody needs
    wakes: int  # the rank that may go on with it; -1: none, as all may


Option = tuple[int, int, int, _Step | None]
"""What a rank could do next: from when on, how urgent it is, on which rank, and what; None: the pass that is as
urgent."""
NEVER = 1 << 62
PASSES: tuple[PassKind, ...] = ("G", "S")
"""Of two passes that a rank could take, the first; actions come after both."""
G, S, ACTION = 0, 1, 2


class _Play:
    """Ranks that go through their rows, and take S and G when they are free."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.last = schedule, schedule.stages - 1
        ranks, results = schedule.ranks, (2 * schedule.stages + 1) * schedule.microbatches
        self.rows = [[_step(schedule, action) for action in row] for row in schedule.actions]
        self.free, self.place = [0] * ranks, [0] * ranks
        self.ends: list[int | None] = [None] * results + [0]
        self.losses: list[int] = []  # microbatches whose hidden states are there, in that order
        self.ready: tuple[list[int], list[int]] = [], []  # of G and S, since when every rank can take each loss
        self.taken = [0] * ranks, [0] * ranks
        self.left: tuple[list[int], list[int]] = [], []  # ranks that have not taken each loss yet
        self.next: list[Option] = [(NEVER, ACTION, rank, None) for rank in range(ranks)]

    def run(self) -> Iterator[tuple[int, Action | PassKind, int, int, int]]:
        """Play until nothing is left: on which rank, which action or pass, of which microbatch (-1: an action says so
        itself), from when to when."""
        for rank in range(self.schedule.ranks):
            self._look(rank)
        while True:
            begin, urgency, rank, step = min(self.next)
            if begin == NEVER:
                break
            what: Action | PassKind
            if step is None:
                what, microbatch = PASSES[urgency], self.losses[self.taken[urgency][rank]]
                end = self.free[rank] = begin + TICKS[what]
                self._passed(rank, urgency, end)
            else:
                what, microbatch, end = step.action, -1, begin + step.ticks
                self.free[rank] = end
                self._acted(rank, step, end)
            self._look(rank)
            yield rank, what, microbatch, begin, end
        if any(place < len(row) for place, row in zip(self.place, self.rows, strict=True)):
            raise DeadlockError(self.schedule, [])

    def _look(self, rank: int) -> None:
        """Find what a rank could do next."""
        row, place, free = self.rows[rank], self.place[rank], self.free[rank]
        best: Option = NEVER, ACTION, rank, None
        if place < len(row):
            step = row[place]
            needed = self.ends[step.needed]
            if needed is not None:
                best = needed if needed > free else free, ACTION, rank, step
        for urgency in (G, S):
            number, ready = self.taken[urgency][rank], self.ready[urgency]
            if number < len(ready):
                since = ready[number]
                best = min(best, (since if since > free else free, urgency, rank, None))
        self.next[rank] = best

    def _offer(self, urgency: int, ready: int) -> None:
        """Let every rank that has taken all before take one pass more."""
        number = len(self.ready[urgency])
        self.ready[urgency].append(ready)
        for rank, taken in enumerate(self.taken[urgency]):
            if taken == number:
                self.next[rank] = min(self.next[rank], (max(ready, self.free[rank]), urgency, rank, None))

    def _acted(self, rank: int, step: _Step, end: int) -> None:
        self.place[rank] += 1
        if step.made < 0:
            return
        self.ends[step.made] = end
        if step.wakes >= 0:
            self._look(step.wakes)
        elif step.action.kind == "F":
            self.losses.append(step.action.microbatch)
            for each in self.left:
                each.append(self.schedule.ranks)
            self._offer(S, end + LATE)

    def _passed(self, rank: int, urgency: int, end: int) -> None:
        """The last rank to take a pass, which ends last, lets what follows begin."""
        number = self.taken[urgency][rank]
        self.taken[urgency][rank] += 1
        self.left[urgency][number] -= 1
        if self.left[urgency][number]:
            return
        if urgency == S:
            self._offer(G, end + LATE)
        else:
            self.ends[2 * self.schedule.stages * self.schedule.microbatches + self.losses[number]] = end
            self._look(self.schedule.rank_of(self.last))


def _step(schedule: Schedule, action: Action) -> _Step:
    kind, stage, microbatch = action
    count, stages, last = schedule.microbatches, schedule.stages, schedule.stages - 1
    forward, always = stage * count + microbatch, (2 * stages + 1) * count
    backward, gradients = stages * count + forward, 2 * stages * count + microbatch
    if kind == "W":
        return _Step(action, TICKS[kind], backward, -1, -1)
    if kind == "F":
        wakes = schedule.places[stage + 1] if stage < last else -1
        return _Step(action, TICKS[kind], forward - count if stage else always, forward, wakes)
    wakes = schedule.places[stage - 1] if stage else -1
    return _Step(action, TICKS[kind], backward + count if stage < last else gradients, backward, wakes)


def logits_waiting(schedule: Schedule) -> int:
    """The most microbatches of which one rank has logits (after S) but no gradients (G) yet."""
    play, most = _Play(schedule), 1
    for rank, step, *_ in play.run():
        if step == "S":
            most = max(most, play.taken[S][rank] - play.taken[G][rank])
    return most
