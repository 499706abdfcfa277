"""Start the workers of a profile, follow them, and end all of them in bounded time whatever happens.

A worker that fails, hangs or is interrupted takes nothing away from what it and the others have written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """What one worker is told."""

    rank: int
    workers: int
    threads: int
    folder: str
    limit_s: float  # of the whole profile
    wait_s: float = 60.0  # for the others, in any call
    seconds: dict[str, float] = field(default_factory=dict)  # of each part that is measured
    asked: dict[str, Any] = field(default_factory=dict)  # parts.Asked
    rendezvous: str = ""
    local_rank: int = 0
    local_workers: int = 1


class Worker(NamedTuple):
    """A started process and where its words go."""

    rank: int
    process: subprocess.Popen[bytes]
    log: Path


def run(settings: list[Settings], module: str, announce: Callable[[str, str], None]) -> list[str]:
    """Run `module` once for each of the settings until all are done. What went wrong, in words.

    `announce` gets the part and what of it rank 0 begins. When a worker ends badly before any part began, the others
    are ended; later they go on, as far as they can alone. Ctrl-C ends all, and comes out as words, too.
    """
    folder = Path(settings[0].folder)
    workers: list[Worker] = []
    try:
        workers += (_start(each, module, folder) for each in settings)
        return list(_follow(workers, folder, settings[0].limit_s, announce))
    except KeyboardInterrupt:
        return [f"interrupted; last part begun: {_last_part(folder)}"]
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def _start(settings: Settings, module: str, folder: Path) -> Worker:
    threads = str(settings.threads)
    path = os.pathsep.join(part for part in sys.path if part)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": path}
    own = folder / str(settings.rank)
    own.mkdir(exist_ok=True)
    log = own / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(asdict(settings))],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return Worker(settings.rank, process, log)


def _follow(workers: list[Worker], folder: Path, limit_s: float, announce: Callable[[str, str], None]) -> Iterator[str]:
    begin, told, failed = time.monotonic(), 0, set[int]()
    while True:
        codes = {worker.rank: worker.process.poll() for worker in workers}
        parts = _parts(folder)
        for part, what in parts[told:]:
            announce(part, what)
        told = len(parts)
        for worker in workers:
            if (code := codes[worker.rank]) and worker.rank not in failed:
                failed.add(worker.rank)
                yield f"worker {worker.rank} failed (exit {code}): {_last_words(worker.log)}"
        if all(code is not None for code in codes.values()) or (failed and not parts):
            return
        if time.monotonic() - begin > limit_s:
            late = ", ".join(str(rank) for rank, code in codes.items() if code is None)
            yield f"workers {late} did not finish in {limit_s:.0f} s; last part begun: {_last_part(folder)}"
            return
        time.sleep(_POLL_S)


def _parts(folder: Path) -> list[tuple[str, str]]:
    progress = folder / "progress"
    lines = progress.read_text().splitlines() if progress.exists() else []
    return [(part, what) for part, _, what in (line.partition("\t") for line in lines)]


def _last_part(folder: Path) -> str:
    parts = _parts(folder)
    return parts[-1][0] if parts else "start"


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
