"""Greedy: list scheduling under caps on what a rank may hold, as the automatic scheduler of zero bubble does
(arXiv:2401.10241, section 4: fill memory with forwards, go backward as soon as possible, fill waiting with weight
gradients).

A rank that is free takes the most urgent action that is ready. A forward is ready only while the cap leaves room for
it, and for one more microbatch in each of the rank's later stages: then the microbatch that has come furthest can
always go on, so that the list ends whatever the seconds. (Let nothing be ready, and F(v, m) be the furthest forward
that waits. All that its rank holds is then in earlier stages of that rank, and the last of them was let in with room
for a stage more than F(v, m) asks for: it is ready.)
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .action import SECONDS, Action, Kind
from .placement import Placement
from .schedule import Schedule

Urgency = Callable[[Action], tuple[int, ...]]
"""Of the actions that a rank could begin, the least goes first."""
Seconds = dict[Kind, Sequence[float]]
"""Of each kind of action, by virtual stage."""

URGENCY = {"I": 0, "B": 0, "F": 1, "W": 2}


def backward_first(action: Action) -> tuple[int, ...]:
    """Input gradients, then forwards, and weight gradients where nothing else can be done; oldest microbatch first,
    and of its stages the last."""
    return URGENCY[action.kind], action.microbatch, -action.stage


def limited(schedule: Schedule, caps: Sequence[int]) -> Schedule:
    """A schedule whose ranks hold no more stage inputs than `caps[r]`: itself where that is so, else its actions in the
    order in which greedy ranks come to them, urgent as they were listed (F, I and W take one second, B two).

    Raises ValueError for a cap below the number of the rank's stages.
    """
    if all(schedule.in_flight(rank) <= cap for rank, cap in enumerate(caps)):
        return schedule
    places = {action: place for row in schedule.actions for place, action in enumerate(row)}
    whole = frozenset(action[1:] for action in places if action.kind == "B")
    seconds: Seconds = {kind: (each,) * schedule.stages for kind, each in SECONDS.items()}
    return greedy(
        schedule.name, schedule.microbatches, schedule.places, caps, seconds, lambda each: (places[each],), whole
    )


@dataclass(slots=True)
class _Rank:
    """Where one rank is: what could begin (a heap for forwards of each stage, one for the rest) and what it holds."""

    stages: Sequence[int]
    cap: int
    forwards: dict[int, list[tuple[tuple[int, ...], Action]]] = field(default_factory=dict)
    others: list[tuple[tuple[int, ...], Action]] = field(default_factory=list)
    held: int = 0
    busy: bool = False

    def take(self) -> Action | None:
        """The most urgent action that may begin."""
        heaps = [heap for stage, heap in self.forwards.items() if heap and self.admits(stage)]
        heaps += [self.others] if self.others else []
        return heapq.heappop(min(heaps, key=lambda heap: heap[0]))[1] if heaps else None

    def admits(self, stage: int) -> bool:
        later = sum(each > stage for each in self.stages)
        return self.held + 1 + later <= self.cap


def greedy(
    name: str,
    microbatches: int,
    placement: Placement,
    caps: Sequence[int],
    seconds: Seconds,
    urgency: Urgency = backward_first,
    whole: frozenset[tuple[int, int]] = frozenset(),
) -> Schedule:
    """The list that greedy ranks make of all passes of a step, given how long each takes.

    `caps[r]` limits the stage inputs that rank r holds until the last of their backward; `whole` are the (stage,
    microbatch) whose backward is not split. Raises ValueError for a cap below the number of the rank's stages.
    """
    ranks = max(placement) + 1
    found = _Greedy(microbatches, placement, seconds, urgency, whole, _ranks(placement, caps))
    return Schedule(name, ranks, len(placement), microbatches, found.rows(), placement)


def _ranks(placement: Placement, caps: Sequence[int]) -> list[_Rank]:
    ranks = []
    for rank, cap in zip(range(max(placement) + 1), caps, strict=True):
        stages = [stage for stage, holder in enumerate(placement) if holder == rank]
        if cap < len(stages):
            raise ValueError(
                f"rank {rank} has {len(stages)} stages, and cannot hold fewer microbatches than that: {cap}"
            )
        ranks.append(_Rank(stages, cap))
    return ranks


class _Greedy:
    """One run: an event loop over actions that end."""

    def __init__(
        self,
        microbatches: int,
        placement: Placement,
        seconds: Seconds,
        urgency: Urgency,
        whole: frozenset[tuple[int, int]],
        ranks: list[_Rank],
    ):
        self.placement, self.seconds, self.urgency, self.whole, self.ranks = placement, seconds, urgency, whole, ranks
        self.events: list[tuple[float, int, Action]] = []
        for microbatch in range(microbatches):
            self._ready(Action("F", 0, microbatch))

    def rows(self) -> tuple[tuple[Action, ...], ...]:
        """Play until nothing is left."""
        rows: list[list[Action]] = [[] for _ in self.ranks]
        now, count = 0.0, 0
        while True:
            for rank, row in zip(self.ranks, rows, strict=True):
                action = None if rank.busy else rank.take()
                if action is not None:
                    rank.busy = True
                    rank.held += action.kind == "F"
                    row.append(action)
                    count += 1
                    heapq.heappush(self.events, (now + self.seconds[action.kind][action.stage], count, action))
            if not self.events:
                return tuple(tuple(row) for row in rows)
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                self._end(heapq.heappop(self.events)[2])

    def _end(self, action: Action) -> None:
        """Free the rank, and let ready what follows."""
        kind, stage, microbatch = action
        rank = self.ranks[self.placement[stage]]
        rank.busy = False
        rank.held -= kind in "BW"
        last = stage == len(self.placement) - 1
        if kind == "F":
            self._ready(self._backward(stage, microbatch) if last else Action("F", stage + 1, microbatch))
        elif kind != "W" and stage:
            self._ready(self._backward(stage - 1, microbatch))
        if kind == "I":
            self._ready(Action("W", stage, microbatch))

    def _backward(self, stage: int, microbatch: int) -> Action:
        return Action("B" if (stage, microbatch) in self.whole else "I", stage, microbatch)

    def _ready(self, action: Action) -> None:
        rank = self.ranks[self.placement[action.stage]]
        heap = rank.forwards.setdefault(action.stage, []) if action.kind == "F" else rank.others
        heapq.heappush(heap, (self.urgency(action), action))
