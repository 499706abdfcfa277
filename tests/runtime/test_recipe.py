"""Recipes: written, read back, and refused with every problem at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plans import LLAMA, make_plan

from meshwright.errors import InputError
from meshwright.runtime.recipe import Recipe, load_recipe
from meshwright.runtime.recipe_checks import recipe_problems
from meshwright.runtime.run_folder import RunFolder
from meshwright.schema import parse


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    recipe = Recipe(steps=7, data="corpus", suffixes=("py", "*.md", ".txt"), lr=1e-3, schedule="wsd", seed=5)
    recipe.save(tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert recipe.suffixes == (".py", ".md", ".txt")


def test_every_problem_is_reported_at_once() -> None:
    wrong = {"steps": 10, "warmup_steps": 10, "lr": 1e-4, "min_lr": 1e-3, "betas": [0.9, 1.0], "keep_last": 1, "clp": 1}
    with pytest.raises(InputError) as caught:
        parse(Recipe, wrong, "recipe.yaml")
    text = str(caught.value)
    assert {problem.field for problem in caught.value.problems} == {
        "warmup_steps",
        "min_lr",
        "betas",
        "keep_last",
        "clp",
    }
    assert "must be below steps = 10" in text
    assert "must not be above lr = 0.0001" in text
    assert "did you mean 'clip'" in text


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, ""),
        ({"dp": 2, "zero": 3}, ""),
        ({"recompute": "full"}, "recomputed"),
        ({"pp": 2, "schedule": "zb-h1"}, "takes the backward of a layer apart"),
        ({"swap_layers": 2}, "swapped"),
    ],
    ids=str,
)
def test_what_is_not_compiled_is_refused(options: dict[str, Any], word: str, tmp_path: Path) -> None:
    found = recipe_problems(make_plan(LLAMA, **options), Recipe(steps=1, compile=True), RunFolder(tmp_path))
    assert [problem.field for problem in found] == ["compile"][: len(word)]
    assert all(word in problem.rule for problem in found)
