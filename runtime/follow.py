"""Following a run from outside while it goes on: its metrics, its events, and ranks that stand still."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .run_folder import RunFolder
from .watch import Beat, read_beats, stalled

Event = Mapping[str, Any]
OnEvent = Callable[[Event], None]
_POLL_S = 0.2


class Tail:
    """New complete lines of a JSON Lines file that another process appends to, or rewrites shorter."""

    def __init__(self, path: Path):
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def new(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        self._offset = min(self._offset, self._path.stat().st_size)
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                with suppress(ValueError):  # the file was rewritten and has grown past where we were: half a line
                    yield json.loads(line)


@contextmanager
def following(run: RunFolder, timeout_s: float, on_event: OnEvent) -> Iterator[None]:
    """Call `on_event` from a thread, in order, for all that happens inside the `with`.

    Metrics have the key `step`; everything else has `event` and a `message` for people.
    """
    closed = threading.Event()
    follower = _Follower(run, timeout_s, on_event)
    thread = threading.Thread(target=follower.run, args=(closed,), name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()
        follower.poll()


class _Follower:
    def __init__(self, run: RunFolder, timeout_s: float, on_event: OnEvent):
        self._run, self._timeout_s, self._on_event = run, timeout_s, on_event
        self._tails = (Tail(run.events), Tail(run.metrics))
        self._started_s = time.time()
        self._named_at_s = 0.0  # once for each time that a run stands still

    def run(self, closed: threading.Event) -> None:
        while not closed.wait(_POLL_S):
            self.poll()

    def poll(self) -> None:
        for tail in self._tails:
            for event in tail.new():
                self._on_event(event)
        now_s = time.time()
        beats = read_beats(self._run.heartbeats, self._started_s)
        held_up_by = stalled(beats, self._timeout_s, now_s)
        for beat in held_up_by:
            # A stopped process holds back even the agent's SIGTERM; one that runs does not notice this.
            with suppress(ProcessLookupError):
                os.kill(beat.pid, signal.SIGCONT)
        if held_up_by and max(beat.moved_at_s for beat in beats) > self._named_at_s:
            self._named_at_s = now_s
            for beat in held_up_by:
                self._name(beat, now_s)

    def _name(self, beat: Beat, now_s: float) -> None:
        message = f"rank {beat.rank} (process {beat.pid}) has not moved for {now_s - beat.moved_at_s:.0f} s"
        details = {"rank": beat.rank, "pid": beat.pid, "after_step": beat.step}
        stands = f"; it stands in {beat.at}" if beat.at else ""
        self._on_event({"event": "stalled", "message": f"{message}, after step {beat.step}{stands}", **details})
