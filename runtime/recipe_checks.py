"""What keeps a plan's model from being trained as a recipe says, found before any process is started."""

from __future__ import annotations

from pathlib import Path

from ..errors import Problem
from ..planner.plan import Plan
from .blocks.moe_shape import read_moe
from .config_checks import dropout_problems
from .recipe import Recipe


def recipe_problems(plan: Plan, recipe: Recipe) -> list[Problem]:
    """Dropout that does not run, experts that are not there, and pretrained weights that are not those of the model."""
    found = recipe.expert_problems(read_moe(plan.model.config))
    found += dropout_problems(plan.model.config) if recipe.dropout else []
    if recipe.init_from is None:
        return found
    from .pretrained import check_pretrained

    return found + check_pretrained(Path(recipe.init_from), plan.model.config)
