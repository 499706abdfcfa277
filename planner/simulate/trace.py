"""One step as a Chrome trace: open it in https://ui.perfetto.dev or chrome://tracing.

Format: "Trace Event Format" (Google, the Catapult project): complete events (ph X) with times in
microseconds, metadata events (ph M) for names. A process is a pipeline rank, its threads are streams.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...schema import writing
from ..configuration import Configuration
from .simulation import Simulation
from .timeline import Span, Stream

COMPUTE, DATA, FORWARDS, BACKWARDS = range(4)
_STREAMS = {
    COMPUTE: "compute",
    DATA: "data-parallel communication",
    FORWARDS: "pipeline, forward",
    BACKWARDS: "pipeline, backward",
}
_OF: dict[Stream, int] = {"compute": COMPUTE, "data parallel": DATA}
Event = dict[str, Any]


def write_trace(simulation: Simulation, path: Path) -> None:
    """Write the trace of one step as JSON."""
    with writing(path):
        path.write_text(json.dumps(trace(simulation), separators=(",", ":")) + "\n")


def trace(simulation: Simulation) -> dict[str, Any]:
    """The trace of one step; equal simulations give equal traces."""
    configuration = simulation.played
    events = [event for rank in range(configuration.mesh.pp) for event in _names(rank)]
    events += [_event(span, configuration) for span in simulation.timeline.spans]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _names(rank: int) -> Iterator[Event]:
    yield {"ph": "M", "pid": rank, "name": "process_name", "args": {"name": f"pipeline rank {rank}"}}
    yield {"ph": "M", "pid": rank, "name": "process_sort_index", "args": {"sort_index": rank}}
    for tid, name in _STREAMS.items():
        yield {"ph": "M", "pid": rank, "tid": tid, "name": "thread_name", "args": {"name": name}}


def _event(span: Span, configuration: Configuration) -> Event:
    tid = _thread(span)
    times = {"ts": round(span.start_s * 1e6, 3), "dur": round((span.end_s - span.start_s) * 1e6, 3)}
    names = {"name": _name(span), "cat": _STREAMS[tid]}
    return {"ph": "X", "pid": span.rank, "tid": tid, **names, **times, "args": _args(span, configuration)}


def _thread(span: Span) -> int:
    """A rank sends forwards and backwards over two links, which may be busy at once."""
    if span.stream == "pipeline":
        return FORWARDS if span.action and span.action.kind == "F" else BACKWARDS
    return _OF[span.stream]


def _name(span: Span) -> str:
    """`F s3 m1`, `send F s3 m1`, `reduce B s3 m1`, `gather s3`, `optimizer`."""
    if span.stream == "compute":
        return str(span.action or span.name)
    stage = "" if span.stage is None else f"s{span.stage}"
    return f"{span.name} {span.action or stage}".rstrip()


def _args(span: Span, configuration: Configuration) -> dict[str, Any]:
    if span.action is None:
        return {} if span.stage is None else {"stage": span.stage}
    found = {"stage": span.action.stage, "microbatch": span.action.microbatch}
    if span.stream == "pipeline":
        found["to_rank"] = configuration.rank_of(span.action.stage + (1 if span.action.kind == "F" else -1))
    return found
