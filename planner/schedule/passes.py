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
    found = list(_Play(schedule).run())
    begin = {each.step: each.begin for each in found if isinstance(each.step, Action)}
    end = {each.step: each.end for each in found if isinstance(each.step, Action)}
    for action in list(begin):
        if action.stage == 0 and action.kind != "W":
            at = max(0, begin[action] - AHEAD) if action.kind == "F" else end[action] + BEHIND
            kind: PassKind = "E" if action.kind == "F" else "T"
            found += [Played(Pass(kind, action.microbatch, rank), at, at) for rank in range(schedule.ranks)]
    return sorted(found, key=lambda each: (each.begin, each.end))


Option = tuple[int, int, int, Action | Pass | None]
"""What a rank could do next: from when on, how urgent it is, on which rank, and what."""
NOTHING: Option = (1 << 62, 0, 0, None)
ORDER: tuple[PassKind, PassKind] = ("G", "S")
"""Of two passes that a rank could take, the first."""


class _Play:
    """Ranks that go through their rows, and take S and G when they are free."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.last = schedule, schedule.stages - 1
        self.free, self.place = [0] * schedule.ranks, [0] * schedule.ranks
        self.ends: dict[tuple[str, int, int], int] = {}
        self.losses: list[int] = []  # microbatches whose hidden states are there, in that order
        self.ready: dict[PassKind, list[int]] = {"S": [], "G": []}  # since when every rank can take each loss
        self.taken: dict[PassKind, list[int]] = {"S": [0] * schedule.ranks, "G": [0] * schedule.ranks}
        self.latest: dict[PassKind, dict[int, list[int]]] = {"S": {}, "G": {}}
        self.changed: list[int] = []  # ranks that may have something else to do next
        self.all_changed = True

    def run(self) -> Iterator[Played]:
        """Play until nothing is left."""
        ranks = range(self.schedule.ranks)
        next_of: list[Option] = [NOTHING] * len(ranks)
        while True:
            for rank in ranks if self.all_changed else self.changed:
                next_of[rank] = min(self._options(rank), default=NOTHING)
            self.changed, self.all_changed = [], False
            begin, _, rank, step = min(next_of)
            if step is None:
                break
            end = self.free[rank] = begin + TICKS[step.kind]
            self.changed.append(rank)
            if isinstance(step, Pass):
                self._passed(step, end)
            else:
                self._acted(rank, step, end)
            yield Played(step, begin, end)
        if any(place < len(row) for place, row in zip(self.place, self.schedule.actions, strict=True)):
            raise DeadlockError(self.schedule, [])

    def _options(self, rank: int) -> Iterator[Option]:
        """What a rank could do next."""
        row, place, free = self.schedule.actions[rank], self.place[rank], self.free[rank]
        needed = self._needed(row[place]) if place < len(row) else None
        if needed is not None:
            yield max(needed, free), 2, rank, row[place]
        for urgency, kind in enumerate(ORDER):
            number, ready = self.taken[kind][rank], self.ready[kind]
            if number < len(ready):
                yield max(ready[number], free), urgency, rank, Pass(kind, self.losses[number], rank)

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
        if kind != "W":
            self.ends["F" if kind == "F" else "B", stage, microbatch] = end
        ahead = stage + 1 if kind == "F" else stage - 1
        if kind != "W" and 0 <= ahead <= self.last:
            self.changed.append(self.schedule.rank_of(ahead))
        if kind == "F" and stage == self.last:
            self.all_changed = True
            self.losses.append(microbatch)
            self.ready["S"].append(end + LATE)

    def _passed(self, step: Pass, end: int) -> None:
        """The last rank to take a pass lets what follows begin."""
        self.taken[step.kind][step.rank] += 1
        ends = self.latest[step.kind].setdefault(step.microbatch, [])
        ends.append(end)
        if len(ends) == self.schedule.ranks:
            self.all_changed = True
            if step.kind == "S":
                self.ready["G"].append(max(ends) + LATE)
            else:
                self.ends["G", self.last, step.microbatch] = max(ends)


def logits_waiting(schedule: Schedule) -> int:
    """The most microbatches of which one rank has logits (after S) but no gradients (G) yet."""
    most, now = 1, [0] * schedule.ranks
    for step in schedule.steps:
        if isinstance(step, Pass):
            now[step.rank] += {"S": 1, "G": -1}.get(step.kind, 0)
            most = max(most, now[step.rank])
    return most
