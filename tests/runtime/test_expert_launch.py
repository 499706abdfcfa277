"""A run with experts from recipe to result: balanced, recorded, reported, continued."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import training_ranks
from harness import run_ranks
from moe_families import DEEPSEEK_V3, MIXTRAL
from plans import make_plan
from safetensors.torch import load_file

from meshwright.planner.experts import place
from meshwright.planner.experts.planned import ExpertPlacement, contiguous
from meshwright.planner.experts.trace_file import read_trace
from meshwright.runs import recipe_settings
from meshwright.runtime.launch import launch
from meshwright.runtime.recipe import Recipe
from meshwright.schema import parse

CONFIG = {**DEEPSEEK_V3, "vocab_size": 256}
STEPS = 8
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


PLACED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mixtral, replicas": ({**MIXTRAL, "vocab_size": 256}, {"replicas": 2}),
    "deepseek_v3, groups": (CONFIG, {"n_group": CONFIG["n_group"]}),
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # torch's agent leaves log files to the collector
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", PLACED)
def test_a_run_is_placed_by_its_own_routing_and_goes_on(name: str, tmp_path: Path) -> None:
    """Recorded, placed, launched again in the same folder: the curve and the model of the run that was left alone."""
    (config, wanted), recipe = PLACED[name], resumable(tmp_path)
    plan, run, straight = make_plan(config, dp=2, ep=2), tmp_path / "run", tmp_path / "straight"
    run_ranks(2, training_ranks.run_training, straight, plan, recipe)
    run_ranks(2, training_ranks.run_training, run, plan, recipe, 3)
    trace = read_trace(run / "routing")
    found = place(trace, num_experts=8, ranks_per_node=[2], **wanted)
    placement = ExpertPlacement(slots=tuple(map(tuple, found.permutation.tolist())))
    again = plan.model_copy(update={"placement": placement, "expert_replicas": wanted.get("replicas", 0)})
    assert placement != contiguous([8] * trace.num_layers)
    assert launch(again, recipe, run)["status"] == "finished"
    gc.collect()
    expected, continued = curve(straight), curve(run)
    assert [line["step"] for line in continued] == list(range(1, STEPS + 1))
    for key, bar in (("loss", 1e-5), ("grad_norm", 1e-3)):
        assert [line[key] for line in continued] == pytest.approx([line[key] for line in expected], rel=bar)
    theirs, ours = (load_file(folder / "final" / "model.safetensors") for folder in (straight, run))
    assert theirs.keys() == ours.keys()
    for weight, tensor in theirs.items():
        assert (tensor - ours[weight]).abs().max() <= 5e-4 * tensor.abs().max() + 1e-6, weight


def resumable(folder: Path) -> Recipe:
    text = folder / "text.txt"
    text.write_text("all experts are equal, but some experts are more equal than others. " * 200)
    settings = [f"steps={STEPS}", "checkpoint_every=4", "experts.record_every=1", "eps=1e-5", "lr=3e-3"]
    return parse(Recipe, recipe_settings(None, {"data": str(text)}, settings), "recipe")


def curve(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_settings_of_experts_are_merged() -> None:
    found = recipe_settings(None, {}, ["experts.balance=bias", "lr=0.1", "experts.z_loss=0.5"])
    assert found == {"experts": {"balance": "bias", "z_loss": 0.5}, "lr": 0.1}
