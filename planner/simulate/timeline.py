"""Timeline: one step, when everything ran."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..schedule import Action, Schedule
from ..schedule.passes import Pass
from .data_stream import Collective

Stream = Literal["compute", "data parallel", "pipeline"]


@dataclass(frozen=True, slots=True)
class Span:
    """One thing that one stream of a rank did, `name` says what: `F`, `B`, `I`, `W`, `gather`, `reduce`, `gather and
    reduce`, `send`, `sum tied`, `optimizer`, `offload`. A rank sends over two links, forwards and backwards, perhaps
    at once."""

    rank: int
    stream: Stream
    name: str
    start_s: float
    end_s: float
    action: Action | None = None  # None where it belongs to no one action
    stage: int | None = None  # of a collective


@dataclass(frozen=True, slots=True)
class Timeline:
    """One step. `makespan_s`: the last backward ends; `reduced_s`: the last gradient is reduced; `step_s`: all is done.

    `busy_s[r]` is what rank r has to compute; the rest of the makespan it waits, or overlap takes from it. The span of
    an action holds its waiting for the weights of its layers. Spans are ordered by rank, stream, start.
    """

    makespan_s: float
    reduced_s: float
    step_s: float
    busy_s: tuple[float, ...]
    spans: tuple[Span, ...]

    def of(self, stream: Stream) -> tuple[Span, ...]:
        """The spans of one stream of all ranks."""
        return tuple(span for span in self.spans if span.stream == stream)


def spans_of(
    schedule: Schedule,
    starts_s: Sequence[float],
    ends_s: Sequence[float],
    arrivals_s: Sequence[float],
    collectives: Iterable[Collective],
) -> list[Span]:
    """Spans of all actions, of what they send, and of collectives; times are by slot of the schedule's program."""
    spans: list[Span] = []
    actions: dict[int, Action] = {}
    carried = [0.0] * len(schedule.links)
    for action, step in zip(schedule.steps, schedule.program, strict=True):
        slot, rank, link = step.slot, step.rank, step.link
        if isinstance(action, Pass):
            continue
        actions[slot] = action
        spans.append(Span(rank, "compute", action.kind, starts_s[slot], ends_s[slot], action))
        if schedule.links[link] != (rank, rank):
            sent_s = max(ends_s[slot], carried[link])
            carried[link] = arrivals_s[slot]
            if arrivals_s[slot] > sent_s:
                spans.append(Span(rank, "pipeline", "send", sent_s, arrivals_s[slot], action))
    for each in collectives:
        of = None if each.slot is None else actions[each.slot]
        spans.append(Span(each.rank, "data parallel", each.name, each.start_s, each.end_s, of, each.stage))
    return spans
