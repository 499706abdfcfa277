"""Measure this machine and write down what was found as a cluster."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..clusters.here import this_machine
from ..clusters.local import usable_cores
from ..clusters.save import save_cluster
from ..clusters.schema import Cluster
from ..errors import InputError
from . import records
from . import workers as processes
from .assembly import Note, assemble
from .detect.busy import busy_notes, processors_used
from .detect.gpus import read_gpus
from .parts import MEASURING, Allotted, Asked, Found, allot

__all__ = ["profile_machine", "save_cluster"]


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
    allotted = allot(budget_s, asked)
    tell("starting workers", 0.0)
    busy = list(busy_notes(processors_used(), read_gpus()[0]))
    with _kept(folder) as place:
        settings = _settings(workers, budget_s, place, allotted, asked)
        done = Done(allotted, tell)
        wrong = processes.run(settings, f"{__package__}.worker", done)
        found, notes = _found(place, settings, allotted), notes_of(place, range(workers))
        if begun := pieces(place):
            why = f"what there is of {', '.join(begun)} is kept: the same command with --folder {place} goes on"
            notes.append({"part": "workers", "what": "what did not end", "why": why})
    tell("done", 1.0)
    notes = [*busy, *left_out(allotted), *notes, *({"part": "workers", "why": words} for words in wrong)]
    return assemble(found, provenance(workers, settings[0].threads, budget_s, asked), notes)


def _silent(_: str, __: float) -> None:
    """Nobody asked to follow."""


@contextmanager
def _kept(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        place = Path(tempfile.mkdtemp(prefix="meshwright-profile-"))
        try:
            yield place
        finally:
            if not pieces(place):
                shutil.rmtree(place, ignore_errors=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder)
        yield folder.resolve()


def pieces(place: Path) -> list[str]:
    """Parts that did not end, of which something was measured."""
    return sorted({path.stem for path in place.glob(f"*/*{records.PIECES}") if len(path.read_text().splitlines()) > 1})


def _claim(folder: Path) -> None:
    """Say whose measurements these are. Raises InputError where they are those of another machine."""
    here = this_machine(on_gpus=True)
    mine = {"host": here.host, "devices": list(here.devices or this_machine(on_gpus=False).devices)}
    known = records.read(folder / "machine.json")
    if known is not None and known != mine:
        whose = f"{known.get('host')} ({', '.join(known.get('devices', []))})"
        rule = f"holds the measurements of another machine, {whose}"
        raise InputError.single("command line", "--folder", str(folder), rule, "another folder")
    records.write(folder / "machine.json", mine)


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


class Done:
    """Fraction of the profile that is done when a part begins."""

    def __init__(self, allotted: Allotted, tell: Callable[[str, float], None]) -> None:
        self._tell, total = tell, sum(allotted.seconds.values())
        self._before, done = dict[str, float](), 0.0
        for part, seconds in allotted.seconds.items():
            self._before[part] = 1 - MEASURING + MEASURING * done / total
            done += seconds

    def __call__(self, part: str, what: str) -> None:
        self._tell(what if what == part else f"{part}: {what}", self._before[part])


def _found(folder: Path, settings: list[processes.Settings], allotted: Allotted) -> Found:
    """What every worker has written; a worker that wrote nothing has an empty place."""
    results = [
        {part: found for part in allotted.seconds if (found := result_of(folder, each.rank, part, each)) is not None}
        for each in settings
    ]
    return Found(results, [range(len(settings))])


def result_of(folder: Path, rank: int, part: str, settings: processes.Settings) -> dict[str, Any] | None:
    """Measured now, or under these settings before."""
    record = records.read(records.place(folder, rank, part))
    under: Mapping[str, Any] = (record or {}).get("under") or {}
    right = under.get("workers") == settings.workers and under.get("asked", settings.asked) == settings.asked
    return record["result"] if record and right else None


def notes_of(folder: Path, ranks: Iterable[int]) -> list[Note]:
    """What some workers could not measure, and why."""
    paths = [folder / str(rank) / "notes" for rank in ranks]
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def left_out(allotted: Allotted) -> Iterator[Note]:
    """Parts for which the budget is too small."""
    for part, why in allotted.left_out.items():
        yield {"part": part, "why": why}


def provenance(workers: int, threads: int, budget_s: float, asked: Asked) -> dict[str, Any]:
    """The fields of a Provenance that are known before anything is measured."""
    about = {"workers": workers, "threads": threads, "budget_s": budget_s}
    if asked.model is None:
        return about
    return about | {"model": f"{asked.model}, sequences of {asked.seq_len}, {asked.global_batch} a step"}
