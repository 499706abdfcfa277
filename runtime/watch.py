"""Heartbeats: each rank says how far it is, the launcher names those that stopped moving.

A rank in a collective waits for its peers, so every rank stands still when one does. The heartbeat therefore
holds two times: of the last step, kept by training, and of the last beat, kept by a thread. A rank whose
thread fell silent is stopped, dead or stuck holding the interpreter; where all threads beat, those with the
fewest steps hold up the rest, and of these the ones that do not themselves wait for a peer.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

# Ranks import, connect and build their models seconds apart, however short a step is.
START_TIMEOUT_S = 120.0
_BEAT_S = 1.0
_CALLERS = ("torch/_ops.py", "torch/utils/_contextlib.py")  # how operators are called, which says nothing of which


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One heartbeat file. Times are seconds since the epoch, by the clock of `host`."""

    rank: int
    host: str
    pid: int
    step: int
    moved_at_s: float
    beat_at_s: float
    at: str = ""  # where its main thread stands: "step (train.py:112)"
    waits: bool = False  # whether that is in torch.distributed


class Heartbeat:
    """Writes the heartbeat of this rank from a thread until closed.

    The thread also ends the process when the one that started it is gone: a killed launcher must not leave
    workers that go on writing to a run folder which the next launch takes over.
    """

    def __init__(self, folder: Path, rank: int):
        self._path = folder / f"rank-{rank:05}.json"
        self._rank = rank
        self._step, self._moved_at_s = 0, time.time()
        self._parent = os.getppid()
        self._closed, self._writing = threading.Event(), threading.Lock()
        self._write()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def moved(self, step: int) -> None:
        """Training has done `step` steps. The first is written at once: it ends the time that starting up is given."""
        first, self._step, self._moved_at_s = self._step == 0, step, time.time()
        if first:
            with suppress(OSError):
                self._write()

    def close(self) -> None:
        """Stop, and leave no file: a rank that ended is not a rank that hangs."""
        self._closed.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._closed.wait(_BEAT_S):
            if os.getppid() != self._parent:
                os._exit(1)
            with suppress(OSError):  # a full disk is for the checkpoint to report
                self._write()

    def _write(self) -> None:
        at, waits = _main_thread_at()
        beat = Beat(
            rank=self._rank, host=socket.gethostname(), pid=os.getpid(),
            step=self._step, moved_at_s=self._moved_at_s, beat_at_s=time.time(), at=at, waits=waits,
        )  # fmt: skip
        temporary = self._path.with_suffix(".tmp")
        with self._writing:
            temporary.write_text(json.dumps(asdict(beat)))
            temporary.replace(self._path)


def _main_thread_at() -> tuple[str, bool]:
    """Function and line that the main thread executes, and whether it belongs to torch.distributed."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and frame.f_code.co_filename.endswith(_CALLERS) and frame.f_back is not None:
        frame = frame.f_back
    if frame is None:
        return "", False
    path = Path(frame.f_code.co_filename)
    return f"{frame.f_code.co_name} ({path.name}:{frame.f_lineno})", "/torch/distributed/" in path.as_posix()


def read_beats(folder: Path, since_s: float) -> list[Beat]:
    """Heartbeats, newer than `since_s`, of processes that run on this host. Other hosts watch their own."""
    beats = []
    for path in sorted(folder.glob("rank-*.json")):
        try:
            beat = Beat(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):  # that rank has just ended; a power cut left half a file
            continue
        if beat.host == socket.gethostname() and beat.beat_at_s >= since_s and _exists(beat.pid):
            beats.append(beat)
    return beats


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # gone, and its number may be another user's now
        return False
    return True


def stalled(beats: Sequence[Beat], timeout_s: float, now_s: float) -> list[Beat]:
    """Ranks that hold up a run in which nothing has moved for `timeout_s`, or longer before all did a step."""
    if any(beat.step == 0 for beat in beats):
        timeout_s = max(timeout_s, START_TIMEOUT_S)
    if not beats or now_s - max(beat.moved_at_s for beat in beats) <= timeout_s:
        return []
    silent = [beat for beat in beats if now_s - beat.beat_at_s > max(timeout_s, 3 * _BEAT_S)]
    behind = [beat for beat in beats if beat.step == min(beat.step for beat in beats)]
    return silent or [beat for beat in behind if not beat.waits] or behind
