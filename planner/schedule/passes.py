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
    forwards, found, backwards = [each for each in row if each.kind == "F"], list[Action](), 0
    before = _backwards_before(row)
    for action in row:
        if action.kind != "F":
            while forwards and before[0] - 1 <= backwards:
                found.append(forwards.pop(0))
                before.pop(0)
            backwards += 1
            found.append(action)
    return (*found, *forwards)


def _backwards_before(row: tuple[Action, ...]) -> list[int]:
    """For each forward, how many backwards stand before it."""
    counts, backwards = [], 0
    for action in row:
        if action.kind == "F":
            counts.append(backwards)
        backwards += action.kind != "F"
    return counts


def played(schedule: Schedule) -> list[Played]:
    """All actions and passes of a schedule, in the order of time. Raises DeadlockError for actions that never end."""
    found = [
        Played(Pass(what, microbatch, rank) if microbatch >= 0 else what, begin, end)  # type: ignore[arg-type]
        for rank, what, microbatch, begin, end in _Play(schedule).run()
    ]
    begin = {each.step: each.begin for each in found if isinstance(each.step, Action)}
    end = {each.step: each.end for each in found if isinstance(each.step, Action)}
    for action in list(begin):
        if action.stage == 0 and action.kind != "W":
            at = max(0, begin[action] - AHEAD) if action.kind == "F" else end[action] + BEHIND
            kind: PassKind = "E" if action.kind == "F" else "T"
            found += [Played(Pass(kind, action.microbatch, rank), at, at) for rank in range(schedule.ranks)]
    return sorted(found, key=lambda each: (each.begin, each.end))


Option = tuple[int, int, int, Action | PassKind | None]
"""What a rank could do next: from when on, how urgent it is, on which rank, and what."""
NEVER = 1 << 62
URGENCY: dict[PassKind, int] = {"G": 0, "S": 1}
"""Of two passes that a rank could take, the first; actions come after both."""


class _Play:
    """Ranks that go through their rows, and take S and G when they are free."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.last = schedule, schedule.stages - 1
        ranks = schedule.ranks
        self.free, self.place = [0] * ranks, [0] * ranks
        self.ends: dict[tuple[str, int, int], int] = {}
        self.losses: list[int] = []  # microbatches whose hidden states are there, in that order
        self.ready: dict[PassKind, list[int]] = {"S": [], "G": []}  # since when every rank can take each loss
        self.taken: dict[PassKind, list[int]] = {"S": [0] * ranks, "G": [0] * ranks}
        self.left: dict[PassKind, list[int]] = {"S": [], "G": []}  # ranks that have not taken each loss yet
        self.next: list[Option] = [(NEVER, 0, rank, None) for rank in range(ranks)]

    def run(self) -> Iterator[tuple[int, Action | PassKind, int, int, int]]:
        """Play until nothing is left: on which rank, which action or pass, of which microbatch (-1: an action says so
        itself), from when to when."""
        for rank in range(self.schedule.ranks):
            self._look(rank)
        while True:
            begin, _, rank, step = min(self.next)
            if step is None:
                break
            if isinstance(step, str):
                end = self.free[rank] = begin + TICKS[step]
                microbatch = self._passed(rank, step, end)
            else:
                end, microbatch = begin + TICKS[step.kind], -1
                self.free[rank] = end
                self._acted(rank, step, end)
            self._look(rank)
            yield rank, step, microbatch, begin, end
        if any(place < len(row) for place, row in zip(self.place, self.schedule.actions, strict=True)):
            raise DeadlockError(self.schedule, [])

    def _look(self, rank: int) -> None:
        """Find what a rank could do next."""
        row, place, free = self.schedule.actions[rank], self.place[rank], self.free[rank]
        best: Option = NEVER, 0, rank, None
        needed = self._needed(row[place]) if place < len(row) else None
        if needed is not None:
            best = max(needed, free), 2, rank, row[place]
        for kind, urgency in URGENCY.items():
            number, ready = self.taken[kind][rank], self.ready[kind]
            if number < len(ready):
                best = min(best, (max(ready[number], free), urgency, rank, kind))
        self.next[rank] = best

    def _offer(self, kind: PassKind, ready: int) -> None:
        """Let every rank that has taken all before take one pass more."""
        number = len(self.ready[kind])
        self.ready[kind].append(ready)
        for rank, taken in enumerate(self.taken[kind]):
            if taken == number:
                self.next[rank] = min(self.next[rank], (max(ready, self.free[rank]), URGENCY[kind], rank, kind))

    def _needed(self, action: Action) -> int | None:
        """Since when an action has what it needs; None: it has not yet."""
        kind, stage, microbatch = action
        if kind == "F":
            return self.ends.get(("F", stage - 1, microbatch)) if stage else 0
        if kind == "W":
            return self.ends.get(("B", stage, microbatch))
        if stage < self.last:
            return self.ends.get(("B", stage + 1, microbatch))
        return self.ends.get(("G", stage, microbatch))

    def _acted(self, rank: int, action: Action, end: int) -> None:
        kind, stage, microbatch = action
        self.place[rank] += 1
        if kind == "W":
            return
        self.ends["F" if kind == "F" else "B", stage, microbatch] = end
        ahead = stage + 1 if kind == "F" else stage - 1
        if 0 <= ahead <= self.last:
            self._look(self.schedule.rank_of(ahead))
        elif kind == "F":
            self.losses.append(microbatch)
            for each in self.left.values():
                each.append(self.schedule.ranks)
            self._offer("S", end + LATE)

    def _passed(self, rank: int, kind: PassKind, end: int) -> int:
        """The last rank to take a pass, which ends last, lets what follows begin."""
        number = self.taken[kind][rank]
        self.taken[kind][rank] += 1
        self.left[kind][number] -= 1
        microbatch = self.losses[number]
        if not self.left[kind][number]:
            if kind == "S":
                self._offer("G", end + LATE)
            else:
                self.ends["G", self.last, microbatch] = end
                self._look(self.schedule.rank_of(self.last))
        return microbatch


def logits_waiting(schedule: Schedule) -> int:
    """The most microbatches of which one rank has logits (after S) but no gradients (G) yet."""
    play, most = _Play(schedule), 1
    for rank, step, *_ in play.run():
        if step == "S":
            most = max(most, play.taken["S"][rank] - play.taken["G"][rank])
    return most
