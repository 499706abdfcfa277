"""Learn from runs of the built-in runtime: the cluster that they were planned for, with what they taught."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from ..planner.attention import S2
from ..planner.fitting.calibrated import Calibrated, calibrate
from ..planner.fitting.runs import read_runs
from ..planner.plan import Plan
from ..runtime.recipe import Recipe, load_recipe


def from_run(paths: Sequence[Path]) -> Calibrated:
    """The cluster of the last run's plan. Raises InputError with every problem of all folders."""
    names = ", ".join(path.name for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    return calibrate(read_runs(paths, unpriced), source=f"runs {names}", date=date.today().isoformat())


def unpriced(path: Path, plan: Plan) -> str:
    """What a run's recipe asked for that the price of its plan does not have: the difference would go to the cluster.
    Raises InputError where recipe.yaml is none."""
    recipe = path / "recipe.yaml"
    found = list(_unpriced(load_recipe(recipe), plan)) if recipe.exists() else []
    return (
        f"was trained with {', '.join(found)} in its recipe, which the price of its plan does not have" if found else ""
    )


def _shards(s2: S2 | None) -> str:
    return "dense" if s2 is None else "s2:" + ",".join(f"{name}={value}" for name, value in s2.model_dump().items())


def _unpriced(recipe: Recipe, plan: Plan) -> Iterator[str]:
    job = plan.job
    if recipe.compile:
        yield "compile: true"
    if recipe.kernels not in (None, job.kernels):
        yield f"kernels: {recipe.kernels} (priced: {job.kernels})"
    if recipe.compress not in (None, job.compress):
        yield f"compress: {recipe.compress} (priced: {job.compress})"
    if (trained := _shards(recipe.sharded(plan))) != (priced := _shards(job.sharded)):
        yield f"attention: {trained} (priced: {priced})"
    if recipe.separate_documents:
        yield "separate_documents: true"
    if recipe.experts is not None and recipe.experts.capacity_factor is not None:
        yield f"experts.capacity_factor: {recipe.experts.capacity_factor:g}"
