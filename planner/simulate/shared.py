"""The event interpreter where ranks share cores (workers of one machine): who computes while others wait goes faster.

`Work` has every action's seconds while all ranks compute and wait for nothing; `pace[k - 1]` says how much faster a
rank is while k do, and `wake_s[k - 1]` what it takes until a rank begins with what another one has sent.
Everything else is as `engine.py` says of collectives that take the cores: the gather before an action, the reduction
after it. A rank that waits for a message uses no core. Between two events ranks that compute keep their pace (processor
sharing), so that the next event is found exactly.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..schedule import FIRST_FORWARD, GRADIENT, HALF, LAST_BACKWARD, Schedule
from ..schedule.program import Instruction, slots
from .data_stream import Collective
from .work import Work

_NOW = -math.inf


@dataclass(slots=True)
class _Piece:
    """Seconds of compute, or of a collective, on a rank: at full load."""

    seconds: float
    instruction: Instruction
    name: str  # "gather", "reduce", or "" for the action itself
    needed: int | None = None  # the slot of the result that it waits for
    sent: bool = False  # by another rank


@dataclass(slots=True)
class SharedPlay:
    """What happened so far: by slot, as in engine.Played."""

    starts_s: list[float]
    ends_s: list[float]
    arrivals_s: list[float]
    carried_s: list[float]
    log: list[Collective] = field(default_factory=list)
    free_s: list[float] = field(default_factory=list)


def play_shared(schedule: Schedule, work: Work, seconds: list[float], hops: list[float], size: int) -> SharedPlay:
    """Play a step up to its last gradient; `seconds` by group of instructions, `hops` by link."""
    queues = _queues(schedule, work, seconds)
    found = SharedPlay([0.0] * size, [0.0] * size, [math.inf] * size, [0.0] * len(hops), free_s=[0.0] * schedule.ranks)
    found.arrivals_s[-1] = _NOW  # the slot that is always there
    now, left, place, begun = 0.0, [0.0] * schedule.ranks, [0] * schedule.ranks, [0.0] * schedule.ranks
    busy: set[int] = set()
    while True:
        begins = [
            rank
            for rank, queue in enumerate(queues)
            if rank not in busy and place[rank] < len(queue) and _is_ready(queue[place[rank]], found, now)
        ]
        busy.update(begins)
        for rank in begins:
            left[rank], begun[rank] = _work(work, len(busy), queues[rank][place[rank]]), now
        if not busy and all(place[rank] == len(queue) for rank, queue in enumerate(queues)):
            return found
        pace = {rank: _pace(work, len(busy), queues[rank][place[rank]]) for rank in busy}
        step_s = min((left[rank] / pace[rank] for rank in busy), default=math.inf)
        waits = (found.arrivals_s[slot] - now for slot in _awaited(queues, place, busy))
        step_s = min(step_s, min((wait for wait in waits if wait > 0), default=math.inf))
        assert step_s < math.inf  # a schedule in an executable order never locks
        done = {rank for rank in busy if left[rank] / pace[rank] <= step_s}
        for rank in busy:
            left[rank] -= step_s * pace[rank]
        now += step_s
        for rank in sorted(done):
            _end(found, queues[rank][place[rank]], rank, begun[rank], now, hops, schedule.stages)
            place[rank] += 1
        busy -= done


def _pace(work: Work, busy: int, piece: _Piece) -> float:
    """Of a piece while so many ranks are busy. No message wakes a collective up that a rank begins by itself."""
    pace = work.pace[busy - 1] if work.pace else 1.0
    return max(1.0, pace) if piece.name else pace


def _work(work: Work, busy: int, piece: _Piece) -> float:
    """Seconds at full load of a piece that begins while so many ranks are busy, waking up included."""
    return piece.seconds + (work.wake_s[busy - 1] * _pace(work, busy, piece) if piece.sent and work.wake_s else 0.0)


def _is_ready(piece: _Piece, found: SharedPlay, now: float) -> bool:
    return piece.needed is None or found.arrivals_s[piece.needed] <= now


def _awaited(queues: list[list[_Piece]], place: list[int], busy: set[int]) -> Iterator[int]:
    """Slots of the results that idle ranks wait for."""
    for rank, queue in enumerate(queues):
        needed = queue[place[rank]].needed if rank not in busy and place[rank] < len(queue) else None
        if needed is not None:
            yield needed


def _end(
    found: SharedPlay, piece: _Piece, rank: int, begun_s: float, now: float, hops: list[float], stages: int
) -> None:
    found.free_s[rank] = now
    slot, stage = piece.instruction.slot, piece.instruction.group % stages
    if piece.name:
        if now > begun_s:
            found.log.append(Collective(rank, piece.name, stage, slot, begun_s, now))
        return
    link = piece.instruction.link
    found.starts_s[slot], found.ends_s[slot] = begun_s, now
    found.arrivals_s[slot] = found.carried_s[link] = max(now, found.carried_s[link]) + hops[link]


def _is_sent(schedule: Schedule, each: Instruction) -> bool:
    """Whether another rank makes what it needs; the last slot is always there."""
    if each.needed == slots(schedule) - 1:
        return False
    return schedule.places[each.needed // schedule.microbatches % schedule.stages] != each.rank


def _queues(schedule: Schedule, work: Work, seconds: list[float]) -> list[list[_Piece]]:
    """What each rank does, in order."""
    nothing, found = (0.0,) * schedule.stages, defaultdict[int, list[_Piece]](list)
    slow = work.slow.data or (1.0,) * schedule.ranks
    for each in schedule.program:
        turn, stage = each.turn, each.group % schedule.stages
        gathers = turn & FIRST_FORWARD or (work.zero == 3 and not (turn & HALF and turn & GRADIENT))
        reduces = turn & LAST_BACKWARD or (work.zero >= 2 and turn & GRADIENT)
        if gathers and (work.gather_s or nothing)[stage]:
            found[each.rank].append(_Piece(slow[each.rank] * work.gather_s[stage], each, "gather"))
        found[each.rank].append(_Piece(seconds[each.group], each, "", each.needed, _is_sent(schedule, each)))
        if reduces and (work.reduce_s or nothing)[stage]:
            found[each.rank].append(_Piece(slow[each.rank] * work.reduce_s[stage], each, "reduce"))
    return [found[rank] for rank in range(schedule.ranks)]
