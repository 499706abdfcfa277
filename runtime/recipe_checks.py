"""What keeps a plan's model from being trained as a recipe says, found before any process is started."""

from __future__ import annotations

from pathlib import Path

from ..errors import Problem
from ..planner.plan import Plan
from ..planner.schedule.table import splits
from .blocks.moe_shape import read_moe
from .blocks.shape import read_shape
from .config_checks import dropout_problems
from .manifest import complete_checkpoints
from .recipe import Recipe
from .replica_checks import capacity_problems
from .run_folder import RunFolder


def recipe_problems(plan: Plan, recipe: Recipe, run: RunFolder) -> list[Problem]:
    """Dropout that does not run, layers that cannot be compiled, experts that are not there, and pretrained weights
    that are not those of the model; a run that has checkpoints needs these no more."""
    found = recipe.expert_problems(read_moe(plan.model.config))
    found += capacity_problems(plan, recipe)
    found += dropout_problems(plan.model.config) if recipe.dropout else []
    found += compile_problems(plan) if recipe.compile else []
    found += lengths_problems(plan, recipe) if plan.job.lengths is not None else []
    if recipe.init_from is None or complete_checkpoints(run.checkpoints):
        return found
    from .pretrained import check_pretrained

    return found + check_pretrained(Path(recipe.init_from), plan.model.config)


def lengths_problems(plan: Plan, recipe: Recipe) -> list[Problem]:
    """What a plan for sequences of different lengths asks of a recipe."""
    found = []
    if not recipe.separate_documents:
        rule = "a plan with lengths trains document after document"
        found.append(Problem("separate_documents", False, rule, "separate_documents=true"))
    if recipe.dropout and read_shape(plan.model.config).drops_out:
        found.append(Problem("dropout", True, "documents of different lengths drop nothing out", "dropout=false"))
    if recipe.compile:
        found.append(Problem("compile", True, "layers see another length in every round", "compile=false"))
    return found


def compile_problems(plan: Plan) -> list[Problem]:
    """Where layers are not compiled: what forgets, puts off or moves things in the middle of one."""
    configuration = plan.configuration
    reasons = {
        "layers that are recomputed are not compiled": set(configuration.recompute) != {"none"},
        f"the {configuration.schedule} schedule takes the backward of a layer apart": splits(configuration),
        "layers that are swapped are not compiled": configuration.swap_layers > 0,
    }
    return [Problem("compile", True, reason, "compile=false") for reason, holds in reasons.items() if holds]
