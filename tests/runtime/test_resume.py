"""A run that was interrupted is the run that was not: same bits on the same mesh, same curve on another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import RankError, run_ranks
from plans import LLAMA, make_plan
from safetensors.torch import load_file
from training_ranks import crash_while_publishing, run_training, save_then_change

from meshwright.runtime.manifest import complete_checkpoints
from meshwright.runtime.recipe import Recipe

STEPS = 10


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(2000)))
    return path


def recipe(text: Path, **other: Any) -> Recipe:
    settings = {
        "steps": STEPS,
        "data": str(text),
        "lr": 3e-3,
        "warmup_steps": 2,
        "checkpoint_every": 4,
        "timeout_s": 60,
    }
    return Recipe.model_validate({**settings, **other})


def curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder: Path) -> list[str]:
    return [json.loads(line)["message"] for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, no interruption."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    run_ranks(1, run_training, folder, make_plan(LLAMA, microbatch=4), recipe(text))
    return folder


def test_a_run_leaves_what_it_promises(straight: Path) -> None:
    lines = curve(straight)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["sample_index"] for line in lines] == [8 * step for step in range(1, STEPS + 1)]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    result = json.loads((straight / "result.json").read_text())
    assert (result["status"], result["steps"], result["final_loss"]) == ("finished", STEPS, lines[-1]["loss"])
    assert [path.name for path in complete_checkpoints(straight / "checkpoints")] == ["step-00000010", "step-00000008"]
    assert result["checkpoint"].endswith("step-00000010")


def test_stop_and_resume_gives_the_same_bits(straight: Path, text: Path, tmp_path: Path) -> None:
    plan = make_plan(LLAMA, microbatch=4)
    run_ranks(1, run_training, tmp_path / "run", plan, recipe(text), 4)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "stopped"
    run_ranks(1, run_training, tmp_path / "run", plan, recipe(text))
    assert "resumed from step 5" in events(tmp_path / "run")
    for name in ("loss", "grad_norm", "lr", "sample_index"):
        assert [line[name] for line in curve(tmp_path / "run")] == [line[name] for line in curve(straight)]
    expected, found = (load_file(run / "final" / "model.safetensors") for run in (straight, tmp_path / "run"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_moves_to_other_meshes(straight: Path, text: Path, tmp_path: Path) -> None:
    """tp2 x pp2 x dp2, then tp1 x pp2 x dp2 with other stages and shares, then one process: one curve."""
    eight = make_plan(LLAMA, tp=2, pp=2, dp=2, sp=True, zero=1, stage_layers=(2, 3))
    four = make_plan(LLAMA, pp=2, dp=2, microbatch=2, stage_layers=(4, 1), shares=(1, 3))
    run_ranks(8, run_training, tmp_path, eight, recipe(text), 3, timeout_s=120)
    run_ranks(4, run_training, tmp_path, four, recipe(text), 6, timeout_s=120)
    run_ranks(1, run_training, tmp_path, make_plan(LLAMA, microbatch=8), recipe(text))
    assert events(tmp_path)[1::2] == ["resumed from step 4", "resumed from step 7"]
    for name in ("loss", "grad_norm"):
        expected = [line[name] for line in curve(straight)]
        assert [line[name] for line in curve(tmp_path)] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("options", [{"microbatch": 4}, {"dp": 2, "zero": 3}])
def test_a_snapshot_is_not_what_comes_after_it(tmp_path: Path, options: dict[str, Any]) -> None:
    plan = make_plan(LLAMA, **options)
    assert all(run_ranks(plan.configuration.mesh.world, save_then_change, tmp_path, plan))


def test_a_crash_while_saving_leaves_the_checkpoint_before(straight: Path, text: Path, tmp_path: Path) -> None:
    plan = make_plan(LLAMA, microbatch=4)
    with pytest.raises(RankError, match="died without a word"):
        run_ranks(1, crash_while_publishing, tmp_path, plan, recipe(text))
    assert (tmp_path / "checkpoints" / "step-00000008.tmp" / "__0_0.distcp").exists()
    run_ranks(1, run_training, tmp_path, plan, recipe(text))
    assert events(tmp_path) == ["resumed from step 4"]
    assert [line["loss"] for line in curve(tmp_path)] == [line["loss"] for line in curve(straight)]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def test_damaged_checkpoints_are_named_and_never_loaded(text: Path, tmp_path: Path) -> None:
    plan = make_plan(LLAMA, dp=2)
    run_ranks(2, run_training, tmp_path, plan, recipe(text, steps=6, checkpoint_every=3))
    flip(tmp_path / "checkpoints" / "step-00000006" / "__1_0.distcp")
    run_ranks(2, run_training, tmp_path, plan, recipe(text, steps=8, checkpoint_every=3))
    damaged, resumed = events(tmp_path)
    assert damaged.endswith("step-00000006/__1_0.distcp: its content has changed (SHA-256)")
    assert resumed == "resumed from step 3"
    assert [line["step"] for line in curve(tmp_path)] == list(range(1, 9))
    for path in complete_checkpoints(tmp_path / "checkpoints"):
        flip(path / "__0_0.distcp")
    with pytest.raises(RankError, match=r"no checkpoint is intact; .*:\n  step-00000008/__0_0\.distcp"):
        run_ranks(2, run_training, tmp_path, plan, recipe(text, steps=9))


def test_a_loss_that_is_no_number_stops_the_run(text: Path, tmp_path: Path) -> None:
    with pytest.raises(RankError, match=r"is (nan|inf) in step \d+ \(samples \d+ to \d+\) on rank 0"):
        run_ranks(1, run_training, tmp_path, make_plan(LLAMA, microbatch=4), recipe(text, lr=1e30, warmup_steps=0))
