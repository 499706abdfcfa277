"""What keeps a plan's model from being trained as a recipe says, found before any process is started."""

from __future__ import annotations

from pathlib import Path

from ..errors import Problem
from ..planner.plan import Plan
from .blocks.moe_shape import read_moe
from .config_checks import dropout_problems
from .manifest import complete_checkpoints
from .recipe import Recipe
from .run_folder import RunFolder


def recipe_problems(plan: Plan, recipe: Recipe, run: RunFolder) -> list[Problem]:
    """Dropout that does not run, experts that are not there, and pretrained weights that are not those of the model;
    a run that has checkpoints needs these no more."""
    found = recipe.expert_problems(read_moe(plan.model.config))
    found += dropout_problems(plan.model.config) if recipe.dropout else []
    if recipe.init_from is None or complete_checkpoints(run.checkpoints):
        return found
    from .pretrained import check_pretrained

    return found + check_pretrained(Path(recipe.init_from), plan.model.config)
