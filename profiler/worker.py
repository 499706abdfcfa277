"""One worker of a profile, as a process of its own: `python -m meshwright.profiler.worker SETTINGS`.

SETTINGS is the JSON of workers.Settings. Results go to records in the folder, each as soon as it is there, progress of
rank 0 to `progress`: libraries may print to the standard streams whatever they like.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from . import records
from .company import Company, last_line
from .detect.machine import NCCL_TOPOLOGY
from .parts import PARTS, Asked, Part, Setting
from .workers import Settings

Tell = Callable[[str, str], None]


def main(settings: Settings) -> None:
    """Measure every part, in step with the other workers, and leave what was found in the folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us decides what Ctrl-C means
    torch.set_num_threads(settings.threads)
    company = joined(settings, device_of(settings))
    measure_parts(settings, company, _Progress(Path(settings.folder)) if settings.rank == 0 else None)
    company.wait()
    company.leave()


def joined(settings: Settings, device: torch.device) -> Company:
    """This worker with all others, ready to measure."""
    company = Company(device, settings.rank, settings.workers)
    if settings.local_rank == 0:  # NCCL writes down what it finds when workers meet; profiler/detect reads it
        own = Path(settings.folder) / str(settings.rank) / NCCL_TOPOLOGY
        os.environ |= {"NCCL_TOPO_DUMP_FILE": str(own), "NCCL_TOPO_DUMP_FILE_RANK": str(settings.rank)}
    company.join(settings.rendezvous, settings.wait_s)
    gc.disable()  # a collection in the middle of a sample is not the machine's speed
    return company


def measure_parts(settings: Settings, company: Company, tell: Tell | None) -> None:
    """All parts of the settings that are not there yet on every worker. `tell` gets the part and what of it begins."""
    parts = [part for part in PARTS if part.name in settings.seconds]
    under = {part.name: _under(part, settings, company.device) for part in parts}
    folder = Path(settings.folder)
    done = company.common(set(_there(folder, settings.rank, under)))
    for part in parts:
        if part.name not in done:
            _measure(part, settings, company, under[part.name], tell or _silent)


def _there(folder: Path, rank: int, under: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Parts with a result that holds; what was measured under other settings goes."""
    for part, settings in under.items():
        if records.load(folder, rank, part, settings) is None:
            records.place(folder, rank, part).unlink(missing_ok=True)
        else:
            yield part


def _silent(_: str, __: str) -> None:
    """Only one worker tells."""


def _measure(part: Part, settings: Settings, company: Company, under: dict[str, Any], tell: Tell) -> None:
    folder = Path(settings.folder)
    company.wait()
    tell(part.name, part.name)
    if part.talks and company.lost:
        _note(settings, part.name, f"the link to the other workers was lost: {company.lost}")
        return
    path = records.place(folder, settings.rank, part.name)
    kept = records.Kept(path.with_suffix(records.PIECES), under)
    if part.talks:
        kept.only(company.common(kept.keys()))
    try:
        found = part.measure(_setting(part, settings, company, kept, tell))
    except Exception as error:
        _note(settings, part.name, f"{type(error).__name__}: {last_line(error)}")
        if part.talks:
            company.leave(error)
        return
    records.save(folder, settings.rank, part.name, under, found)


def _setting(part: Part, settings: Settings, company: Company, kept: records.Kept, tell: Tell) -> Setting:
    return Setting(
        device=company.device,
        rank=settings.rank,
        world=settings.workers,
        budget_s=settings.seconds[part.name],
        folder=Path(settings.folder) / str(settings.rank),
        asked=Asked(**settings.asked),
        announce=partial(tell, part.name),
        kept=kept,
        local_rank=settings.local_rank,
        threads=settings.threads,
        note=partial(_note, settings, part.name),
    )


def _under(part: Part, settings: Settings, device: torch.device) -> dict[str, Any]:
    """What a result holds for: under other settings it is measured again."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    under: dict[str, Any] = {"workers": settings.workers, "threads": settings.threads, "device": name}
    under["host"] = platform.node()  # of torchrun a rank may come to lie on another
    under |= {"torch": torch.__version__, "budget_s": settings.seconds[part.name]}
    return under | ({"asked": settings.asked} if part.of_model else {})


def device_of(settings: Settings) -> torch.device:
    """A GPU of its own for each worker, or else the CPU for all."""
    if torch.cuda.is_available() and torch.cuda.device_count() >= settings.local_workers:
        torch.cuda.set_device(settings.local_rank)
        return torch.device("cuda", settings.local_rank)
    return torch.device("cpu")


class _Progress:
    """Of this profile, for the process that started the workers."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "progress"

    def __call__(self, part: str, what: str) -> None:
        with self._file.open("a") as file:
            file.write(f"{part}\t{what}\n")


def _note(settings: Settings, part: str, why: str) -> None:
    with (Path(settings.folder) / str(settings.rank) / "notes").open("a") as file:
        file.write(json.dumps({"part": part, "what": f"rank {settings.rank}", "why": why}) + "\n")


if __name__ == "__main__":
    main(Settings(**json.loads(sys.argv[1])))
