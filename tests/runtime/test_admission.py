"""A run that cannot be trained is refused before any process joins another, with the reason and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from harness import run_ranks
from moe_families import DEEPSEEK_V3
from plans import LLAMA, make_plan
from training_ranks import run_training

import meshwright
from meshwright.cli import main
from meshwright.errors import InputError
from meshwright.planner.plan import Plan
from meshwright.runtime.admission import admit, saved_sizes
from meshwright.runtime.blocks.shape import read_shape
from meshwright.runtime.manifest import complete_checkpoints
from meshwright.runtime.model import state_sizes
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.run_folder import RunFolder, open_run
from meshwright.runtime.tokens import prepare_tokens

TIED = {**LLAMA, "tie_word_embeddings": True}
OTHER = {**LLAMA, "hidden_size": 128, "num_hidden_layers": 4}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "ids.npy"
    np.save(path, np.arange(4000, dtype=np.uint16) % 200)
    return Recipe(steps=2, data=str(path), checkpoint_every=1)


def launch(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, Any]]:
    """Exit code and error of `meshwright launch --json`; no process group may be made."""
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **options: pytest.fail("a process group was made"))
    monkeypatch.setattr(sys, "argv", ["meshwright", "launch", *arguments, "--steps", "2", "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    error: dict[str, Any] = json.loads(capsys.readouterr().out)["error"]
    return int(stop.value.code or 0), error


def changed(plan: Plan, path: Path, **fields: Any) -> str:
    """A plan file that somebody has edited."""
    content = {**plan.model_dump(mode="json", by_alias=True), **fields}
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mesh": {"dp": 4}}, "mesh"),
        ({"mesh": {"dp": 2, "tp": 3}}, "mesh.tp"),
        ({"microbatch": 3}, "microbatch"),
        ({"stage_layers": [4]}, "stage_layers"),
        ({"model": {"name": "other", "config": OTHER}}, "stage_layers"),
        ({"model": {"name": "other", "config": {**LLAMA, "model_type": "t5"}}}, "model.config.model_type"),
    ],
    ids=str,
)
def test_a_plan_that_does_not_hold_together_is_refused(
    fields: dict[str, Any],
    named: str,
    tmp_path: Path,
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = changed(make_plan(LLAMA, dp=2), tmp_path / "plan.json", **fields)
    code, error = launch([path, "--run", str(tmp_path / "run"), "--data", recipe.data], monkeypatch, capsys)
    assert code == 2
    assert named in {problem["field"] for problem in error["problems"]}
    assert not (tmp_path / "run").exists()


def test_data_of_another_vocabulary_is_refused(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_plan({**LLAMA, "vocab_size": 64}, dp=2).save(tmp_path / "plan.yaml")
    arguments = [str(tmp_path / "plan.yaml"), "--run", str(tmp_path / "run"), "--data", recipe.data]
    code, error = launch(arguments, monkeypatch, capsys)
    assert code == 2
    assert "the largest token id is 199, the model's vocabulary has 64" in json.dumps(error)


def test_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan and the recipe of the folder were replaced, its checkpoints were not."""
    run_ranks(1, run_training, tmp_path / "run", make_plan(LLAMA), recipe)
    run = RunFolder(tmp_path / "run")
    run.result.unlink()
    plan = make_plan(OTHER)
    plan.save(run.plan)
    code, error = launch(["--run", str(run.path), str(run.plan)], monkeypatch, capsys)
    assert code == 2
    assert any("lm_head.weight" in problem["field"] for problem in error["problems"])
    with pytest.raises(InputError, match="the plan of this checkpoint"):
        admit(run, plan, recipe, 1)
    admit(run, make_plan(LLAMA, microbatch=4), recipe, 1)


def test_the_weights_of_a_checkpoint_are_those_of_the_model(tmp_path: Path, recipe: Recipe) -> None:
    for name, config in {"llama": LLAMA, "tied": TIED, "buffers": {**DEEPSEEK_V3, "vocab_size": 256}}.items():
        run_ranks(1, run_training, tmp_path / name, make_plan(config), recipe)
        checkpoint = complete_checkpoints(RunFolder(tmp_path / name).checkpoints)[0]
        assert saved_sizes(checkpoint) == state_sizes(read_shape(config))
    (checkpoint / ".metadata").write_bytes(b"damaged")
    assert saved_sizes(checkpoint) is None


@pytest.mark.parametrize(
    ("world", "vocab", "words"),
    [("3", 256, "WORLD_SIZE = 3: the plan's mesh needs 2 processes"), ("2", 64, "the model's vocabulary has 64")],
)
def test_a_worker_refuses_before_it_looks_for_its_peers(
    world: str, vocab: int, words: str, tmp_path: Path, recipe: Recipe
) -> None:
    """As torchrun starts it, but for the address of the store, without which no group can be made."""
    run = open_run(tmp_path / "run", make_plan({**LLAMA, "vocab_size": vocab}, dp=2), recipe)
    prepare_tokens(recipe, run.data)
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": world}
    environment = {**os.environ, **ranks, "PYTHONPATH": str(Path(meshwright.__file__).parents[1])}
    command = [sys.executable, "-m", "meshwright.runtime.worker", str(run.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "MASTER_ADDR" not in done.stderr
