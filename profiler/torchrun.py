"""A profile of many nodes: `torchrun --nnodes N --nproc-per-node K -m meshwright profile`.

Every process measures as one worker of all; the first gathers what the others found and makes the cluster. Where the
links fail before that, it has what lies in the folder: of all nodes where they share it, else of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..clusters.local import usable_cores
from ..clusters.schema import Cluster
from ..errors import InputError, Problem
from .assembly import Note, assemble
from .detect.busy import busy_notes, processors_used
from .detect.gpus import read_gpus
from .measure import Done, left_out, notes_of, provenance, result_of
from .nodes import grouped
from .parts import Allotted, Asked, Found, Result, allot
from .workers import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .company import Company

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, slots=True)
class Place:
    """Of this process among all, as torchrun numbers them."""

    rank: int
    world: int
    local_rank: int
    local_world: int

    @property
    def node(self) -> int:
        """Nodes are numbered as their processes are: all have as many."""
        return self.rank // self.local_world


def under_torchrun(workers: int | None = None, environment: Mapping[str, str] | None = None) -> Place | None:
    """None where no launcher gave this process a place. Raises InputError for a place that is none, and for a number of
    workers beside that of the launcher."""
    given = os.environ if environment is None else environment
    if not {"RANK", "WORLD_SIZE"} <= given.keys():
        return None
    texts = [given.get(name, given["RANK" if name == "LOCAL_RANK" else "WORLD_SIZE"]) for name in _NAMES]
    wrong = [Problem(name, text, "must be a whole number") for name, text in zip(_NAMES, texts, strict=True)
             if not text.isdecimal()]  # fmt: skip
    if wrong:
        raise InputError("environment", wrong)
    place = Place(*map(int, texts))
    if workers is not None and workers != place.world:
        rule = f"torchrun has started {place.world} processes, which are the workers"
        raise InputError.single("command line", "--workers", workers, rule, "leave it out")
    if not (place.rank < place.world and place.local_rank < place.local_world and place.world % place.local_world == 0):
        rule = "every node must have as many processes, numbered from 0 on"
        raise InputError.single("environment", "RANK, LOCAL_RANK", f"{place.rank}, {place.local_rank}", rule)
    return place


def profile_nodes(
    place: Place, budget_s: float, progress: Callable[[str, float], None], asked: Asked, folder: Path | None = None
) -> Cluster | None:
    """The cluster of all nodes, on rank 0; None on the others. Raises RunError when nothing was measured."""
    import torch

    from .worker import device_of, joined, measure_parts

    allotted = allot(budget_s, asked)
    with _kept(folder) as kept:
        settings = _settings(place, budget_s, kept, allotted, asked)
        busy = _busy(place)
        torch.set_num_threads(settings.threads)
        company = joined(settings, device_of(settings))
        done = Done(allotted, progress) if place.rank == 0 else None
        measure_parts(settings, company, done)
        everything = _gather(company, settings, allotted, [*left_out(allotted), *busy] if place.rank == 0 else busy)
        company.leave()
    if place.rank != 0:
        return None
    progress("done", 1.0)
    results, notes = everything
    found = Found(results, grouped(results, place.local_world))
    about = provenance(place.world, settings.threads, budget_s, asked) | {"nodes": place.world // place.local_world}
    return assemble(found, about, notes)


def _busy(place: Place) -> list[Note]:
    """What others use of this node, asked once a node."""
    found = list(busy_notes(processors_used(), read_gpus()[0])) if place.local_rank == 0 else []
    return [note | {"what": f"{note['what']} of node {place.node}"} for note in found]


@contextmanager
def _kept(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="meshwright-profile-") as place:
        yield Path(place)


def _settings(place: Place, budget_s: float, folder: Path, allotted: Allotted, asked: Asked) -> Settings:
    (folder / str(place.rank)).mkdir(exist_ok=True)
    (folder / str(place.rank) / "notes").unlink(missing_ok=True)
    return Settings(
        rank=place.rank,
        workers=place.world,
        threads=max(1, usable_cores() // place.local_world),
        folder=str(folder),
        limit_s=180 + 5 * budget_s,
        wait_s=60 + budget_s,
        seconds=allotted.seconds,
        asked=asdict(asked),
        rendezvous="env://",
        local_rank=place.local_rank,
        local_workers=place.local_world,
    )


def _gather(
    company: Company, settings: Settings, allotted: Allotted, notes: list[Note]
) -> tuple[list[dict[str, Result]], list[Note]]:
    """Results by rank and all notes, each of this process first."""
    folder = Path(settings.folder)

    def of(rank: int) -> dict[str, Any]:
        found = {part: result_of(folder, rank, part, settings) for part in allotted.seconds}
        return {part: each for part, each in found.items() if each is not None}

    mine = {"results": of(settings.rank), "notes": [*notes, *notes_of(folder, [settings.rank])]}
    all_of_them = company.gather(mine)
    if all_of_them is not None:
        return [each["results"] for each in all_of_them], [note for each in all_of_them for note in each["notes"]]
    others = [rank for rank in range(settings.workers) if rank != settings.rank]
    why = f"the links to the other nodes were lost: {company.lost}"
    lost: list[Note] = [{"part": "workers", "what": "results of other nodes", "why": why}]
    found = [mine["results"] if rank == settings.rank else of(rank) for rank in range(settings.workers)]
    return found, [*mine["notes"], *notes_of(folder, others), *lost]
