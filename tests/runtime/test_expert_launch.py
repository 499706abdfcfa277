"""A run with experts from recipe to result: balanced, recorded, reported, continued."""

from __future__ import annotations

import json
from pathlib import Path

import training_ranks
from harness import run_ranks
from moe_families import DEEPSEEK_V3
from plans import make_plan

from meshwright.runs import recipe_settings
from meshwright.runtime.recipe import Recipe
from meshwright.schema import parse

CONFIG = {**DEEPSEEK_V3, "vocab_size": 256}
SETTINGS = ["steps=4", "checkpoint_every=2", "experts.record_every=3", "experts.bias_rate=0.01"]


def test_a_run_reports_and_records(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("all experts are equal, but some experts are more equal than others. " * 200)
    settings = recipe_settings(None, {"data": str(text)}, SETTINGS)
    recipe, plan = parse(Recipe, settings, "recipe"), make_plan(CONFIG, dp=2, ep=2)
    run_ranks(2, training_ranks.run_training, tmp_path / "run", plan, recipe, 3)
    run_ranks(2, training_ranks.run_training, tmp_path / "run", plan, recipe)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    assert all(1.0 <= line["expert_imbalance"] <= 8.0 for line in metrics)
    loads = [json.loads(line) for line in (tmp_path / "run" / "routing" / "loads-00.jsonl").read_text().splitlines()]
    assert [(row["step"], row["layer"], sum(row["counts"])) for row in loads] == [(3, 1, 768), (3, 2, 768)]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "finished"


def test_settings_of_experts_are_merged() -> None:
    found = recipe_settings(None, {}, ["experts.balance=bias", "lr=0.1", "experts.z_loss=0.5"])
    assert found == {"experts": {"balance": "bias", "z_loss": 0.5}, "lr": 0.1}
