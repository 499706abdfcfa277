"""From what the user gave to what is launched: a plan, a recipe and a run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .errors import InputError, Problem, gather
from .schema import load_mapping, parse

if TYPE_CHECKING:
    from .planner.plan import Plan
    from .runtime.recipe import Recipe
    from .runtime.slurm import SlurmOptions

RUNS = Path("runs")
QUICKSTART = RUNS / "quickstart"


@dataclass(frozen=True, slots=True)
class Run:
    """What `launch` executes, and where."""

    plan: Plan
    recipe: Recipe
    folder: Path


def find_run(
    given: Path | None,
    folder: Path | None,
    settings: Mapping[str, Any],
    quickstart: Callable[[], Plan],
    lost_nodes: str | None = None,
    nnodes: int = 1,
) -> Run:
    """The run that a command line means.

    `given` is a plan file, the folder of an earlier run, or None for the main job, whose plan `quickstart` makes.
    `settings` go over the recipe of an earlier run in the same folder; `lost_nodes`: what the plan holds ready for them
    is run, on `nnodes`. Raises InputError with all problems.
    """
    from .planner.contingency import contingency_plan
    from .planner.plan import load_plan
    from .quickstart import recipe_defaults
    from .runtime.recipe import Recipe

    if given is not None and given.is_dir():
        folder, given = given, None
        _must_hold_a_plan(folder)
    folder = folder or (QUICKSTART if given is None else RUNS / given.stem)
    if lost_nodes is not None and given is None:
        _check_lost(folder, lost_nodes, nnodes)
    earlier = folder / "recipe.yaml"
    recipe = load_mapping(earlier) if earlier.exists() else {}
    if given is None and not (folder / "plan.yaml").exists():
        plan = quickstart()
        recipe = recipe_defaults(plan, settings.get("steps")) | recipe
        return Run(plan, parse(Recipe, merged(recipe, settings), "recipe"), folder)
    plan_file = given or folder / "plan.yaml"
    both = with_tokenizer(merged(recipe, settings))
    plan, training = gather(lambda: load_plan(plan_file), lambda: parse(Recipe, both, "recipe"))
    return Run(plan if lost_nodes is None else contingency_plan(plan, lost_nodes), training, folder)


def _check_lost(folder: Path, lost_nodes: str, nnodes: int) -> None:
    """Raises InputError where no plan in a run folder can say what is run without some nodes."""
    if not (folder / "plan.yaml").exists():
        rule = "the plan of the main job holds nothing for nodes lost"
        raise InputError.single("command line", "--lost-nodes", lost_nodes, rule, "a plan file")
    if nnodes > 1:  # the node that starts first puts the new plan there, and the next one would take it for the old one
        rule = "every node must read the same plan, and the first to start replaces the one in the run folder"
        raise InputError.single("command line", "--lost-nodes", lost_nodes, rule, "the plan file, with all nodes lost")


def with_tokenizer(settings: dict[str, Any]) -> dict[str, Any]:
    """Pretrained weights bring their tokenizer, unless another one is named."""
    weights = settings.get("init_from")
    if isinstance(weights, str) and (own := Path(weights) / "tokenizer.json").exists():
        settings.setdefault("tokenizer", str(own))
    return settings


def _must_hold_a_plan(folder: Path) -> None:
    if not (folder / "plan.yaml").exists():
        raise InputError.single("launch", "PLAN", str(folder), "is a folder without a plan.yaml", "a plan file")


def recipe_settings(file: Path | None, options: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Settings from a recipe file, from options, and from `--set name=value`; the later ones win."""
    settings = load_mapping(file) if file else {}
    settings |= {name: value for name, value in options.items() if value is not None}
    wrong = [text for text in assignments if not text.partition("=")[0].strip() or "=" not in text]
    if wrong:
        raise InputError("command line", [Problem("--set", text, "must be name=value", "clip=0.5") for text in wrong])
    for text in assignments:
        name, _, value = text.partition("=")
        settings = merged(settings, _nested(name.strip(), _value(text, value)))
    return settings


def merged(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with those of `over` in their place; of fields that are mappings in both, their own fields."""
    nested = {key: {**settings[key], **value} for key, value in over.items() if _both(settings.get(key), value)}
    return {**settings, **over, **nested}


def _both(one: Any, other: Any) -> bool:
    return isinstance(one, Mapping) and isinstance(other, Mapping)


def _nested(name: str, value: Any) -> dict[str, Any]:
    """`experts.balance` is a field of the field `experts`."""
    field, dot, inner = name.partition(".")
    return {field: {inner: value}} if dot else {name: value}


def _value(assignment: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError.single("command line", "--set", assignment, "its value is not YAML", "clip=0.5") from None


def slurm_options(texts: Sequence[str]) -> SlurmOptions:
    """`time=8h partition=gpu` as SlurmOptions; what is not known there goes to sbatch as it is."""
    from .runtime.slurm import SlurmOptions

    named: dict[str, Any] = {}
    extra: list[str] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name in ("partition", "account", "time", "job_name"):
            named[name] = value
        elif equals and name == "port" and value.isdigit():
            named["port"] = int(value)
        else:
            extra.append(text)
    return SlurmOptions(**named, extra=tuple(extra))


def submit(run: Run, options: Sequence[str], dry_run: bool) -> str:
    """Write the run folder and its sbatch script and hand it to Slurm; the script itself when `dry_run`."""
    from .runtime.checks import problems
    from .runtime.recipe_checks import recipe_problems
    from .runtime.run_folder import RunFolder, check_unchanged, open_run
    from .runtime.slurm import sbatch_script, write_and_submit

    found = problems(run.plan, run.plan.configuration.mesh.world)
    found += recipe_problems(run.plan, run.recipe, RunFolder(run.folder))
    if found:
        raise InputError("plan", found)
    check_unchanged(run.folder, run.plan, run.recipe)
    script = sbatch_script(run.plan, run.folder, slurm_options(options), python=sys.executable)
    if dry_run:
        return script
    open_run(run.folder, run.plan, run.recipe)
    return write_and_submit(script, run.folder / "job.sbatch")


def check(run: Run, rendezvous: Mapping[str, Any]) -> dict[str, Any]:
    """What `launch` would run, after everything that can be checked beforehand was. Raises InputError."""
    from .runtime.launch import check_all
    from .runtime.rendezvous import Rendezvous

    check_all(run.plan, run.recipe, run.folder, Rendezvous(**rendezvous))
    return {
        "status": "ready",
        "run": str(run.folder),
        "workers": run.plan.configuration.mesh.world,
        "fingerprint": run.plan.fingerprint,
        "recipe": run.recipe.model_dump(mode="json"),
    }
