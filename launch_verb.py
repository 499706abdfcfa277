"""What the verb `launch` does with a bar (the plan of the main job, and the training), warns of, and shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .display.profile import warn_of as warn_of

if TYPE_CHECKING:
    from rich.console import Console


def quickstart(workers: int | None, pins: list[str]) -> Any:
    """Measure and plan with a bar, and say what was chosen."""
    from .display.console import stderr
    from .display.plan import show_plan
    from .display.progress import measuring
    from .quickstart import make_plan, measure

    with measuring() as progress:
        cluster = measure(workers, progress)
    plan = make_plan(cluster, pins)
    show_plan(stderr(), plan)
    return plan


def train(job: Any, rendezvous: dict[str, Any], max_restarts: int) -> dict[str, Any]:
    """Launch with a progress bar."""
    from .display.training import training
    from .runtime.launch import launch
    from .runtime.rendezvous import Rendezvous

    with training(job.recipe.steps) as show:
        return launch(
            job.plan, job.recipe, job.folder,
            rendezvous=Rendezvous(**rendezvous), max_restarts=max_restarts, on_event=show,
        )  # fmt: skip


def show(console: Console, result: dict[str, Any], dry_run: bool) -> None:
    """What came of it, or what would be started."""
    from .display.training import show_mapping, show_result

    (show_mapping if dry_run else show_result)(console, result)
