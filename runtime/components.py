"""Components: what a step of this rank was spent on, timed in a few of its steps.

Everything that can make a rank wait for others stands in `with span(kind)`: where collectives are called or waited for
(`collectives.py`, `parallel/*`), and what of PyTorch's own and of the kernels does so (`compat.timing`). In all but the
sampled steps a span does nothing. Spans may lie in each other; each counts without those inside of it, so that they sum
to the step.
On CUDA an end of a span is an event on the current stream, so that what is counted of a collective is what it holds up
the stream that computes; nothing waits for the device that would not wait anyway.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from ..kernels import vocabulary
from . import compat

COLLECTIVES = ("tp", "cp", "ep", "pp", "dp")
KINDS = ("compute", *COLLECTIVES, "wait", "optimizer", "other")
"""`pp`: transfers and what a stage waits for them; `wait`: sums of one number, for which all wait; `other`: data."""

Clock = Callable[[], Any]


@dataclass(slots=True)
class Span:
    """`begin` and `end` are times of the clock; `parent` is the span around it."""

    kind: str
    begin: Any
    parent: int | None
    end: Any = None


@dataclass(slots=True)
class Stopwatch:
    """The spans of one step. Backward passes run in a thread of their own on CUDA: what is open there lies in what the
    main thread has open."""

    clock: Clock = time.perf_counter
    spans: list[Span] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: dict[int, list[int]] = field(default_factory=dict)
    _main: int = field(default_factory=threading.get_ident)

    @contextmanager
    def span(self, kind: str) -> Iterator[None]:
        """Count what happens inside of it as `kind`."""
        thread = threading.get_ident()
        with self._lock:
            own = self._open.setdefault(thread, [])
            around = own or self._open.get(self._main, [])
            number = len(self.spans)
            self.spans.append(Span(kind, self.clock(), around[-1] if around else None))
            own.append(number)
        try:
            yield
        finally:
            self.spans[number].end = self.clock()
            own.pop()

    def seconds(self) -> dict[str, float]:
        """Of every kind, each span without those inside of it. On CUDA the device must have come to its end."""
        found = dict.fromkeys(KINDS, 0.0)
        for span in self.spans:
            taken_s = _between_s(span.begin, span.end)
            found[span.kind] += taken_s
            if span.parent is not None:
                found[self.spans[span.parent].kind] -= taken_s
        return found


def _between_s(begin: Any, end: Any) -> float:
    if isinstance(begin, torch.cuda.Event):
        return float(begin.elapsed_time(end)) / 1e3
    return float(end - begin)


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream())
    return event


def clock_of(device: torch.device) -> Clock:
    """What tells the time of work on a device."""
    return _mark if device.type == "cuda" else time.perf_counter


_KERNELS = [(vocabulary, "gathering", "tp")]
"""Collectives of the kernels, which know of no spans: that of a loss whose vocabulary is shared out."""

_current: Stopwatch | None = None
_NOTHING: AbstractContextManager[None] = nullcontext()


def sampling() -> bool:
    """Whether this step is timed. Never while a graph is compiled, which is not to be compiled again for it."""
    return not torch.compiler.is_compiling() and _current is not None


def span(kind: str) -> AbstractContextManager[None]:
    """Around what this rank may wait in, or a part of the step. What is compiled has none."""
    return _NOTHING if torch.compiler.is_compiling() or _current is None else _current.span(kind)


@contextmanager
def timed(watch: Stopwatch | None) -> Iterator[None]:
    """Time the step inside of it, in all spans; None: do not."""
    global _current
    if watch is None:
        yield
        return
    _current = watch
    try:
        with compat.timing(span, _KERNELS):
            yield
    finally:
        _current = None
