"""What the verb `profile` does for each of its purposes, and what it prints of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from .profiler.parts import Asked


@dataclass(frozen=True, slots=True)
class Shown:
    """For programs, for people, and how the command ends."""

    to_json: Callable[[], Any]
    show: Callable[[Console], Any]
    exit_code: int = 0


def compare(before: str, after: str) -> Shown:
    """What changed between two cluster files."""
    from . import profiling
    from .display.profile import show_difference

    found = profiling.compare(before, after)
    return Shown(found.to_json, lambda console: show_difference(console, found, before, after))


def learn(runs: list[Path], log: Path | None, cluster: str | None, out: Path | None) -> Shown:
    """From measured runs; the cluster with what they taught goes to `out`."""
    from . import profiling
    from .clusters.save import save_cluster
    from .planner.fitting.calibrated import calibrated_json, calibrated_lines
    from .schema import check_output

    if out:
        check_output(out)
    found = profiling.learned(runs, log, cluster)
    if out:
        save_cluster(found.cluster, out)
    return Shown(
        lambda: calibrated_json(found),
        lambda console: console.print("\n".join(calibrated_lines(found)), markup=False, soft_wrap=True),
    )


def measure(workers: int | None, budget_s: float, asked: Asked, folder: Path | None, out: Path | None) -> Shown | None:
    """With a bar. A profile that Ctrl-C ended is written as far as it came, and ends with 130; None where another
    process of the same torchrun writes it."""
    from . import profiling
    from .clusters.save import save_cluster
    from .display.console import warn
    from .display.profile import show_cluster
    from .display.progress import measuring
    from .profiler.measure import profile_machine
    from .profiler.torchrun import profile_nodes, under_torchrun

    place = under_torchrun(workers)
    count, told = profiling.workers_of(workers) if place is None else (place.world, [])
    warn(told)
    with measuring() as progress:
        if place is None:
            found = profile_machine(count, budget_s, progress, asked, folder)
        else:
            found = profile_nodes(place, budget_s, progress, asked, folder)
    if found is None:
        return None
    if out:
        save_cluster(found, out)
    return Shown(
        lambda: found.model_dump(mode="json", by_alias=True),
        lambda console: show_cluster(console, found),
        130 if profiling.was_interrupted(found) else 0,
    )
