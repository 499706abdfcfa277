"""Measure this machine and write down what was found as a cluster."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..clusters.local import usable_cores
from ..clusters.save import save_cluster
from ..clusters.schema import Cluster
from ..errors import InputError
from . import records
from . import workers as processes
from .assembly import Note, assemble
from .detect.busy import busy_notes, processors_used
from .detect.gpus import read_gpus
from .parts import Allotted, Asked, Found, allot

__all__ = ["profile_machine", "save_cluster"]

_MEASURING = 0.7  # of the budget; the rest is for starting Python and torch


def profile_machine(
    workers: int,
    budget_s: float = 20,
    progress: Callable[[str, float], None] | None = None,
    asked: Asked | None = None,
    folder: Path | None = None,
) -> Cluster:
    """This machine as a cluster of `workers` devices, measured in about `budget_s` seconds.

    Each worker gets a GPU of its own where there are enough, else its share of the CPU's cores. All
    workers run at once, as in training. `progress` is called with what begins and the fraction done. In `folder` (made
    where it is missing) every result stays; what it holds already is not measured again.
    What could not be measured is in `measured.notes` of the cluster: also after a worker failed, or Ctrl-C.
    Raises InputError for impossible arguments, RunError when nothing was measured.
    """
    if workers < 1:
        raise InputError.single("profile", "workers", workers, "at least one worker is needed", "1")
    if budget_s <= 0:
        raise InputError.single("profile", "budget_s", budget_s, "must be above 0 seconds", "20")
    asked, tell = asked or Asked(), progress or _silent
    allotted = allot(_MEASURING * budget_s, asked)
    tell("starting workers", 0.0)
    busy = list(busy_notes(processors_used(), read_gpus()[0]))
    with _kept(folder) as place:
        settings = _settings(workers, budget_s, place, allotted, asked)
        done = _Done(allotted, tell)
        wrong = processes.run(settings, f"{__package__}.worker", done)
        found, notes = _found(place, settings, allotted), _notes(place, settings)
    tell("done", 1.0)
    notes = [*busy, *_left_out(allotted), *notes, *({"part": "workers", "why": words} for words in wrong)]
    about = {"workers": workers, "threads": settings[0].threads, "budget_s": budget_s, "model": _about(asked)}
    return assemble(found, about, notes)


def _silent(_: str, __: float) -> None:
    """Nobody asked to follow."""


@contextmanager
def _kept(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="meshwright-profile-") as place:
            yield Path(place)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()


def _settings(
    workers: int, budget_s: float, folder: Path, allotted: Allotted, asked: Asked
) -> list[processes.Settings]:
    rendezvous = folder / "rendezvous"
    for stale in (rendezvous, folder / "progress", *folder.glob("*/notes")):  # of an earlier run of this folder
        stale.unlink(missing_ok=True)
    return [
        processes.Settings(
            rank=rank,
            workers=workers,
            threads=max(1, usable_cores() // workers),
            folder=str(folder),
            limit_s=180 + 5 * budget_s,  # Python and torch take their time to start on a busy machine
            wait_s=60 + budget_s,
            seconds=allotted.seconds,
            asked=asdict(asked),
            rendezvous=f"file://{rendezvous}",
            local_rank=rank,
            local_workers=workers,
        )
        for rank in range(workers)
    ]


class _Done:
    """Fraction of the profile that is done when a part begins."""

    def __init__(self, allotted: Allotted, tell: Callable[[str, float], None]) -> None:
        self._tell, total = tell, sum(allotted.seconds.values())
        self._before, done = dict[str, float](), 0.0
        for part, seconds in allotted.seconds.items():
            self._before[part] = 1 - _MEASURING + _MEASURING * done / total
            done += seconds

    def __call__(self, part: str, what: str) -> None:
        self._tell(what, self._before[part])


def _found(folder: Path, settings: list[processes.Settings], allotted: Allotted) -> Found:
    """What every worker has written; a worker that wrote nothing has an empty place."""
    results = [
        {part: found for part in allotted.seconds if (found := _result(folder, each.rank, part, each)) is not None}
        for each in settings
    ]
    return Found(results, [range(len(settings))])


def _result(folder: Path, rank: int, part: str, settings: processes.Settings) -> dict[str, Any] | None:
    """Measured now, or under these settings before."""
    record = records.read(records.place(folder, rank, part))
    under: Mapping[str, Any] = (record or {}).get("under") or {}
    right = under.get("workers") == settings.workers and under.get("asked", settings.asked) == settings.asked
    return record["result"] if record and right else None


def _notes(folder: Path, settings: list[processes.Settings]) -> list[Note]:
    paths = [folder / str(each.rank) / "notes" for each in settings]
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def _left_out(allotted: Allotted) -> Iterator[Note]:
    for part, why in allotted.left_out.items():
        yield {"part": part, "why": why}


def _about(asked: Asked) -> str:
    if asked.model is None:
        return ""
    return f"{asked.model}, sequences of {asked.seq_len}, {asked.global_batch} a step"
