"""The data-parallel stream of every rank while a step is played: what is on it, and what an action does with it."""

from __future__ import annotations

from dataclasses import dataclass

from ..schedule import BACKWARD, FIRST_FORWARD, FORWARD, GRADIENT, HALF, LAST_BACKWARD, Schedule
from .beside import Ran, gathered_and_reduced, gathered_before, gathered_beside, reduced_beside, slowed
from .work import Work

Interval = tuple[float, float, float]
"""When an action begins and ends, and when its rank is free again."""


@dataclass(frozen=True, slots=True)
class Collective:
    """A stay on a rank's stream. `slot` is that of the action it belongs to, None for gathers of the step's start."""

    rank: int
    name: str
    stage: int
    slot: int | None
    start_s: float
    end_s: float


class DataStreams:
    """State of one play: until when each rank's stream is busy, and since when weights are there.

    `turns` has the bits of the actions that have to be asked about (`act`); all others just compute.
    """

    def __init__(self, schedule: Schedule, work: Work):
        nothing = (0.0,) * schedule.stages
        slow = work.slow.data or (1.0,) * schedule.ranks
        ranks = schedule.places
        self.gather_s = [each * slow[rank] for each, rank in zip(work.gather_s or nothing, ranks, strict=True)]
        self.reduce_s = [each * slow[rank] for each, rank in zip(work.reduce_s or nothing, ranks, strict=True)]
        self.pieces = work.pieces or (1,) * schedule.stages
        self.zero, self.steal = work.zero, work.steal
        self.free_s = [0.0] * schedule.ranks
        self.log: list[Collective] = []
        self.turns = self._turns()
        self.act = self._act_beside if work.hides else self._act_in_turn
        self._gathered_s = [0.0] * schedule.stages
        if work.hides and self.zero < 3:
            self._gather_ahead(schedule)
        self._until_s = list(self.free_s)

    def seconds_of(self, collective: Collective) -> float:
        """What it takes where nothing paces it."""
        stage, name = collective.stage, collective.name
        return ("gather" in name) * self.gather_s[stage] + ("reduce" in name) * self.reduce_s[stage]

    def gathered(self, stage: int, rank: int, end_s: float) -> None:
        """The weights of a stage that are gathered ahead are there at another time; the last of a rank's comes last."""
        self._gathered_s[stage] = self._until_s[rank] = end_s

    def _turns(self) -> int:
        if not any(self.gather_s) and not any(self.reduce_s):
            return 0
        if self.steal or self.zero == 3:
            return FORWARD | BACKWARD
        first = FIRST_FORWARD if any(self.gather_s) else 0
        return first | (GRADIENT if self.zero == 2 else LAST_BACKWARD)

    def _gather_ahead(self, schedule: Schedule) -> None:
        """Whole weights are kept through the step: each rank gathers its stages one after another from its start."""
        for stage, seconds in enumerate(self.gather_s):
            rank = schedule.rank_of(stage)
            start_s = self.free_s[rank]
            self.free_s[rank] = self._gathered_s[stage] = start_s + seconds
            if seconds:
                self.log.append(Collective(rank, "gather", stage, None, start_s, start_s + seconds))

    def _act_beside(
        self, turn: int, slot: int, stage: int, rank: int, work_s: float, free_s: float, ready_s: float
    ) -> Interval:
        """Collectives run beside compute."""
        begin_s, data_s, steal, pieces = max(free_s, ready_s), self.free_s[rank], self.steal, self.pieces[stage]
        gather_s, reduce_s, zero = self.gather_s[stage], self.reduce_s[stage], self.zero
        if zero == 3:
            if turn & FORWARD or (turn & HALF and not turn & GRADIENT):
                ran = gathered_beside(begin_s, work_s, pieces, gather_s, data_s, steal)
                return self._ran(ran, "gather", rank, stage, slot)
            if turn & HALF:  # the weights' half needs no weights
                ran = reduced_beside(begin_s, work_s, pieces, reduce_s, data_s, steal)
                return self._ran(ran, "reduce", rank, stage, slot)
            ran = gathered_and_reduced(begin_s, work_s, pieces, gather_s, reduce_s, data_s, steal)
            return self._ran(ran, "gather and reduce", rank, stage, slot)
        if turn & FIRST_FORWARD:
            whole_s = self._gathered_s[stage]
            first_s = whole_s - gather_s * (pieces - 1) / pieces
            begin_s, end_s = gathered_before(begin_s, work_s, pieces, first_s, whole_s, self._until_s[rank], steal)
            return begin_s, end_s, end_s
        if turn & LAST_BACKWARD or (zero == 2 and turn & GRADIENT):
            ran = reduced_beside(begin_s, work_s, pieces, reduce_s, data_s, steal)
            return self._ran(ran, "reduce", rank, stage, slot)
        end_s = slowed(begin_s, work_s, data_s, steal)
        return begin_s, end_s, end_s

    def _ran(self, ran: Ran, name: str, rank: int, stage: int, slot: int) -> Interval:
        if ran.data_end_s > ran.data_begin_s:
            self.free_s[rank] = ran.data_end_s
            self.log.append(Collective(rank, name, stage, slot, ran.data_begin_s, ran.data_end_s))
        return ran.begin_s, ran.end_s, ran.end_s

    def _act_in_turn(
        self, turn: int, slot: int, stage: int, rank: int, work_s: float, free_s: float, ready_s: float
    ) -> Interval:
        """Collectives take the cores: the gather before the action, the reduction after its result has left."""
        gathers = (self.zero == 3 and not (turn & HALF and turn & GRADIENT)) or turn & FIRST_FORWARD
        gathered_s = free_s + (self.gather_s[stage] if gathers else 0.0)
        begin_s = max(gathered_s, ready_s)
        end_s = begin_s + work_s
        reduces = turn & LAST_BACKWARD or (self.zero >= 2 and turn & GRADIENT)
        done_s = end_s + (self.reduce_s[stage] if reduces else 0.0)
        for name, start_s, stop_s in (("gather", free_s, gathered_s), ("reduce", end_s, done_s)):
            if stop_s > start_s:
                self.log.append(Collective(rank, name, stage, slot, start_s, stop_s))
        return begin_s, end_s, done_s
