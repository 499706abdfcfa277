"""The event interpreter of a step: when does each rank compute and communicate what.

What is modelled, exactly:

- Compute. A rank computes its actions in the order listed, one at a time; a straggler takes its factor longer. A
  backward in two halves sends its result after the first, the input gradient.
- Pipeline transfers. A link to another rank carries one transfer at a time in each direction, in the order in
  which they become ready, and leaves both ranks free.
- Network cards (`Work.cards`). What goes over a rank's card at the same time and in the same direction shares it, from
  or to both neighbours and with the rank's collectives: `carded.py`. What never meets takes what it takes alone.
- Data parallelism. One stream a rank: collectives in order, one at a time, layer by layer beside the compute of an
  action (`beside.py` has the exact ends). ZeRO 0 and 1: a rank gathers its stages from the start of the step, in the
  order of their first forwards, and reduces each beside the last backward (or weight gradient) of it. ZeRO 2 reduces in
  every backward. ZeRO 3 also gathers in every forward, where the first layer has nothing to run beside, and again in
  every backward.
- What overlap steals. While a collective is in flight on a rank its compute goes at 1 - steal of its pace.
- Where communication cannot hide (`hides` False: CPUs), a collective takes the cores: gathers before an action,
  reductions after it, when its result has left.
- Late reductions (frameworks that do not overlap them) follow a rank's last backward.
- Passes of a spread vocabulary. A rank computes them in their places (`schedule/passes.py`); what they need from other
  ranks, and what these need of them, is on its way for some time that nothing else shares.
- Ranks that share cores (`pace`): `shared.py`, where one that computes while others wait is faster. They are workers of
  one machine: cards are not shared there.
- After the pipeline. The sum of tied embeddings follows the reductions of the first and the last rank. The norm of all
  gradients is a barrier; then each rank runs its optimizer, then its offload transfers. The step ends with the last.

Deterministic: one pass over the schedule's own executable order, so that no event queue is needed; where cards are
shared, events in the order of time, of equal times in the order in which they were found.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..schedule import Schedule
from ..schedule.passes import KINDS
from ..schedule.program import GROUPS, PASS, slots
from .card_use import transfers_meet
from .carded import Seconds, play_carded, shares_cards
from .data_stream import Collective, DataStreams
from .shared import play_shared
from .timeline import Span, Timeline, spans_of
from .work import Passes, Work, check

_ALWAYS_THERE = -math.inf


class Passed(NamedTuple):
    """A pass of a spread vocabulary on one rank, and when it ran."""

    rank: int
    group: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Played:
    """When everything up to the last gradient happened: by slot of the schedule's program, and by rank."""

    starts_s: list[float]
    ends_s: list[float]
    arrivals_s: list[float]  # of an action's result, at the rank that needs it
    collectives: list[Collective]
    done_s: list[float]  # compute and collectives of each rank
    passed: list[Passed]

    @property
    def makespan_s(self) -> float:
        return max(self.ends_s)


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step by cause; all but `transfers_s`, a part of the pipeline's, sum to it."""

    pipeline_s: float  # if collectives cost nothing
    transfers_s: float  # what transfers add to it
    exposed_s: float  # what data-parallel communication adds to it
    optimizer_s: float
    offload_s: float

    @property
    def total_s(self) -> float:
        return self.pipeline_s + self.exposed_s + self.optimizer_s + self.offload_s


def makespan(schedule: Schedule, work: Work) -> float:
    """Seconds from the first forward to the last backward, if collectives cost nothing.

    Raises ValueError on a faulty schedule, or on work that does not match it.
    """
    return play(schedule, replace(work, gather_s=(), reduce_s=(), late_reduce_s=())).makespan_s


def step_time(schedule: Schedule, work: Work) -> StepTime:
    """Seconds of the whole step by cause. Raises ValueError as `makespan` does."""
    pipeline_s = makespan(schedule, work)
    still = replace(work, transfer_s=0.0, passes=None if work.passes is None else work.passes.still)
    transfers_s = pipeline_s - makespan(schedule, still) if work.transfer_s else 0.0
    exposed_s = 0.0
    if work.tied_s or any(work.gather_s) or any(work.reduce_s) or any(work.late_reduce_s):
        exposed_s = max(0.0, _reduced_s(schedule, work, play(schedule, work)) - pipeline_s)
    exposed_s += max(work.regather_s, default=0.0)
    optimizers_s, after_s = _tails(schedule, work)
    return StepTime(pipeline_s, max(0.0, transfers_s), exposed_s, max(optimizers_s), max(after_s) - max(optimizers_s))


def total_s(schedule: Schedule, work: Work) -> float:
    """Seconds of the whole step alone: one play. Raises ValueError as `makespan` does."""
    after_s = max(_tails(schedule, work)[1]) + max(work.regather_s, default=0.0)
    return _reduced_s(schedule, work, play(schedule, work)) + after_s


def run(schedule: Schedule, work: Work) -> Timeline:
    """The whole step with everything that ran. Raises ValueError as `makespan` does."""
    played = play(schedule, work)
    reduced_s = _reduced_s(schedule, work, played)
    optimizers_s, after_s = _tails(schedule, work)
    spans = spans_of(schedule, played.starts_s, played.ends_s, played.arrivals_s, played.collectives)
    spans += [Span(rank, "compute", _kind(schedule, group), start, end) for rank, group, start, end in played.passed]
    spans += _after(schedule, work, _ends_done_s(schedule, played), reduced_s, optimizers_s, after_s)
    ordered = tuple(sorted(spans, key=lambda span: (span.rank, span.stream, span.start_s, span.end_s)))
    total_s = reduced_s + max(after_s) + max(work.regather_s, default=0.0)
    return Timeline(played.makespan_s, reduced_s, total_s, busy_s(schedule, work), ordered)


def play(schedule: Schedule, work: Work) -> Played:
    """Play a step up to its last gradient. Raises ValueError as `makespan` does."""
    check(schedule, work)
    size = slots(schedule)
    if (any(pace != 1 for pace in work.pace) or any(work.wake_s)) and not work.hides and not schedule.spread:
        return _play_shared(schedule, work, size)
    if shares_cards(schedule, work):
        return _play_carded(schedule, work, size)
    return _play(schedule, work, size)


def _play(schedule: Schedule, work: Work, size: int) -> Played:
    """Where nothing meets on a card."""
    starts, ends, arrivals = [0.0] * size, [0.0] * size, [_ALWAYS_THERE] * size
    free = [0.0] * schedule.ranks
    hops = _hops(schedule, work)
    carried = [0.0] * len(hops)  # until when each link is busy
    seconds = _seconds(schedule, work)
    data, stages = DataStreams(schedule, work), schedule.stages
    turns, act = data.turns | (PASS if schedule.spread else 0), data.act
    before, after, passed = *_sent(schedule, work), list[Passed]()
    for slot, needed, group, rank, link, turn in schedule.program:
        begin, ready = free[rank], arrivals[needed]
        if turn & PASS:
            begin = max(begin, ready + before[group])
            free[rank] = end = begin + seconds[group]
            ends[slot], arrivals[slot] = max(ends[slot], end), max(arrivals[slot], end + after[group])
            passed.append(Passed(rank, group, begin, end))
            continue
        if turn & turns:
            begin, end, free[rank] = act(turn, slot, group % stages, rank, seconds[group], begin, ready)
        else:
            if ready > begin:
                begin = ready
            free[rank] = end = begin + seconds[group]
        starts[slot], ends[slot] = begin, end
        sent = carried[link]
        arrivals[slot] = carried[link] = (end if end > sent else sent) + hops[link]
    done = _done_s(work, free, data)
    return Played(starts, ends, arrivals, data.log, done, passed)


def _play_shared(schedule: Schedule, work: Work, size: int) -> Played:
    shared = play_shared(schedule, work, _seconds(schedule, work), _hops(schedule, work), size)
    done = _reduced_late(work, list(shared.free_s), shared.log)
    return Played(shared.starts_s, shared.ends_s, shared.arrivals_s, shared.log, done, [])


def _play_carded(schedule: Schedule, work: Work, size: int) -> Played:
    """Most transfers meet nothing: the order of time is found only where some do."""
    hops = _hops(schedule, work)
    if not DataStreams(schedule, work).turns and not work.late_reduce_s:
        played = _play(schedule, work, size)
        if not transfers_meet(schedule, work, played.arrivals_s, hops):
            return played
    seconds = Seconds(_seconds(schedule, work), *_sent(schedule, work), hops)
    found = play_carded(schedule, work, seconds, size)
    passed = [Passed(*each) for each in found.passed]
    return Played(found.starts_s, found.ends_s, found.arrivals_s, found.log, found.done_s, passed)


def _done_s(work: Work, free: list[float], data: DataStreams) -> list[float]:
    """When compute and collectives of each rank are over; reductions that nothing hides come last."""
    done = [max(of_compute, of_data) for of_compute, of_data in zip(free, data.free_s, strict=True)]
    return _reduced_late(work, done, data.log)


def _reduced_late(work: Work, done: list[float], log: list[Collective]) -> list[float]:
    """When each rank is done that has its late reductions before it."""
    for rank, seconds in enumerate(work.late_reduce_s):
        end = done[rank] + seconds * (work.slow.data[rank] if work.slow.data else 1.0)
        log.append(Collective(rank, "reduce", rank, None, done[rank], end))
        done[rank] = end
    return done


def _seconds(schedule: Schedule, work: Work) -> list[float]:
    """Compute of every group: forwards by stage, then backwards, then where there are halves of each. With a spread
    vocabulary all ranks that share cores are taken to be busy."""
    slow = work.slow.ranks or (1.0,) * schedule.ranks
    if schedule.spread and work.pace:
        slow = tuple(each / work.pace[-1] for each in slow)
    by_kind = {"F": work.forward_s, "B": work.backward_s, "I": work.input_s, "W": work.weight_s}
    of_stages = [
        each * slow[schedule.places[stage]]
        for kind in GROUPS
        for stage, each in enumerate(by_kind[kind] or (0.0,) * schedule.stages)
    ]
    passes = Passes() if work.passes is None else work.passes
    return of_stages + [each * factor for each in passes.compute_s for factor in slow]


def _sent(schedule: Schedule, work: Work) -> tuple[list[float], list[float]]:
    """By group: seconds from the result that a pass waits for to its beginning, and from its end until all have it."""
    passes, of_stages = Passes() if work.passes is None else work.passes, [0.0] * len(GROUPS) * schedule.stages
    ways = (passes.before_s, passes.after_s)
    before, after = ([each for each in way for _ in range(schedule.ranks)] for way in ways)
    return of_stages + before, of_stages + after


def _kind(schedule: Schedule, group: int) -> str:
    """Of a pass."""
    return KINDS[(group - len(GROUPS) * schedule.stages) // schedule.ranks]


def busy_s(schedule: Schedule, work: Work) -> tuple[float, ...]:
    """Compute of every rank in a step."""
    seconds = _seconds(schedule, work)
    times = Counter((step.rank, step.group) for step in schedule.program)
    return tuple(
        math.fsum(count * seconds[group] for (holder, group), count in times.items() if holder == rank)
        for rank in range(schedule.ranks)
    )


def _hops(schedule: Schedule, work: Work) -> list[float]:
    """Seconds of a transfer over every link. What goes past a neighbour meets no straggler."""
    ranks = range(schedule.ranks)
    even = (1.0,) * len(ranks)
    slow = [each * border for each, border in zip(work.slow.links or even, work.borders or even, strict=True)]
    known = [*slow, *(slow[rank - 1] for rank in ranks), *(0.0 for _ in ranks)]
    further = [1.0] * (len(schedule.links) - len(known))
    return [work.transfer_s * factor for factor in (*known, *further)]


def _reduced_s(schedule: Schedule, work: Work, played: Played) -> float:
    """When all gradients are whole: reductions done, and those of a shared embedding summed."""
    return max(*played.done_s, _ends_done_s(schedule, played) + work.tied_s)


def _ends_done_s(schedule: Schedule, played: Played) -> float:
    """When the ranks of the first and of the last stage are done."""
    return max(played.done_s[schedule.places[0]], played.done_s[schedule.places[-1]])


def _tails(schedule: Schedule, work: Work) -> tuple[list[float], list[float]]:
    """Of each rank: seconds of its optimizer, and of optimizer and offload."""
    nothing = (0.0,) * schedule.ranks
    slow = work.slow.ranks or (1.0,) * schedule.ranks
    optimizers = [each * factor for each, factor in zip(work.optimizer_s or nothing, slow, strict=True)]
    return optimizers, [a + b for a, b in zip(optimizers, work.offload_s or nothing, strict=True)]


def _after(
    schedule: Schedule,
    work: Work,
    tied_from_s: float,
    reduced_s: float,
    optimizers_s: list[float],
    after_s: list[float],
) -> list[Span]:
    """What follows the pipeline on every rank."""
    spans = []
    ends = schedule.places[0], schedule.places[-1]
    for rank, (optimizer_s, both_s) in enumerate(zip(optimizers_s, after_s, strict=True)):
        middle = reduced_s + optimizer_s
        if work.tied_s and rank in ends:
            spans.append(Span(rank, "data parallel", "sum tied", tied_from_s, tied_from_s + work.tied_s))
        if optimizer_s:
            spans.append(Span(rank, "compute", "optimizer", reduced_s, middle))
        if work.regather_s:
            begin_s = reduced_s + max(after_s)
            spans.append(Span(rank, "data parallel", "gather updated", begin_s, begin_s + work.regather_s[rank]))
        if both_s > optimizer_s:
            spans.append(Span(rank, "data parallel", "offload", middle, reduced_s + both_s))
    return spans
