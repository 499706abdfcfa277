"""Compressed gradients: wired as plain sums are, replicas equal to the bit, training as good, resumed exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import compressed_ranks
import pytest
import torch
from harness import run_ranks
from plans import LLAMA, make_plan
from safetensors.torch import load_file
from training_ranks import run_training

from meshwright.planner.compression import Compress, extra_bytes
from meshwright.planner.families import architecture
from meshwright.planner.plan import Plan, StageMemory
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.recipe_checks import compress_problems

SMALL = {**LLAMA, "num_hidden_layers": 2}
FORMATS: tuple[Compress, ...] = ("int8", "fp8")
UNITS = SMALL["num_hidden_layers"] + 1


@pytest.mark.parametrize(
    ("options", "slack"),
    [
        ({"dp": 2}, 0.0),  # of two numbers there is one sum
        ({"dp": 2, "pp": 2, "microbatch": 1}, 0.0),
        ({"dp": 4, "microbatch": 1}, 1e-7),
    ],
    ids=str,
)
def test_numbers_that_travel_as_they_are_give_plain_sums(options: dict[str, Any], slack: float) -> None:
    plan = make_plan(SMALL, **options, zero=0)
    assert max(run_ranks(plan.configuration.mesh.world, compressed_ranks.wiring, plan)) <= slack


def test_training_is_as_good_and_replicas_are_equal() -> None:
    """The largest residual is a part of a gradient; losses stay near those of plain sums, which they would not if
    errors added up."""
    plan = make_plan(SMALL, dp=2, zero=0)
    plain, _, nothing = run_ranks(2, compressed_ranks.training, plan, "none", 30)[0]
    assert nothing == 0.0
    for compress in FORMATS:
        ranks = run_ranks(2, compressed_ranks.training, plan, compress, 30)
        assert ranks[0][:2] == ranks[1][:2]
        losses, _, largest = ranks[0]
        assert 0.0 < largest < 0.1
        assert losses != plain
        assert losses == pytest.approx(plain, rel=0.02)
    assert plain[-1] < plain[0] - 0.5


@pytest.mark.parametrize("compress", FORMATS)
def test_nothing_is_lost_over_steps_but_the_last_residuals(compress: Compress) -> None:
    plan = make_plan(SMALL, dp=2, zero=0, precision="fp32")
    assert max(run_ranks(2, compressed_ranks.telescoping, plan, compress, 4)) < 1e-5


def test_bytes_travel() -> None:
    """One all-to-all and one gather a unit, of bytes; the loss is summed beside them."""
    plan = make_plan(SMALL, dp=2, zero=0)
    for counts, kinds in run_ranks(2, compressed_ranks.messages, plan, "int8"):
        assert counts == {"gather": UNITS, "scatter": 0, "sum": 1, "exchange": UNITS}
        assert kinds["gather"] == kinds["exchange"] == {"torch.uint8"}


def recipe(text: Path, **other: Any) -> Recipe:
    settings = {"steps": 6, "data": str(text), "lr": 3e-3, "checkpoint_every": 2, "timeout_s": 60, "compress": "int8"}
    return Recipe.model_validate({**settings, **other})


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_stop_and_resume_gives_the_same_bits(tmp_path: Path) -> None:
    """Residuals are in the checkpoint; another plan begins them at zero and says so."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(2000)))
    plan = make_plan(SMALL, dp=2, zero=0)
    run_ranks(2, run_training, tmp_path / "straight", plan, recipe(text))
    run_ranks(2, run_training, tmp_path / "run", plan, recipe(text), 3)
    run_ranks(2, run_training, tmp_path / "run", plan, recipe(text))
    assert [line["message"] for line in lines(tmp_path / "run", "events.jsonl")][1:] == ["resumed from step 4"]
    straight, found = (lines(tmp_path / name, "metrics.jsonl") for name in ("straight", "run"))
    assert [line["loss"] for line in found] == [line["loss"] for line in straight]
    one, two = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("straight", "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    alone = make_plan(SMALL, microbatch=4)
    run_ranks(1, run_training, tmp_path / "run", alone, recipe(text, steps=7, compress="none"))
    said = [line["message"] for line in lines(tmp_path / "run", "events.jsonl")]
    assert "not taken from the checkpoint: the residuals of compressed gradients: they are not compressed" in said[2]
    run_ranks(2, run_training, tmp_path / "run", plan, recipe(text, steps=8))
    said = [line["message"] for line in lines(tmp_path / "run", "events.jsonl")]
    assert "the checkpoint has none of this plan, so they begin at zero" in said[-2]
    other = make_plan(SMALL, dp=2, zero=0, microbatch=1)  # whose residuals have the names of those in the checkpoint
    run_ranks(2, run_training, tmp_path / "run", other, recipe(text, steps=9))
    said = [line["message"] for line in lines(tmp_path / "run", "events.jsonl")]
    assert "the checkpoint has none of this plan, so they begin at zero" in said[-2]


def test_a_launch_does_what_its_plan_was_priced_with(tmp_path: Path) -> None:
    """Unless the recipe says otherwise; that the plan has counted the memory is not asked twice."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(2000)))
    plan = make_plan(SMALL, dp=2, zero=0)
    priced = plan.model_copy(update={"job": plan.job.model_copy(update={"compress": "int8"})})
    assert plan.fingerprint != priced.fingerprint
    kept = {}
    for name, each, compress in (("asked", plan, "int8"), ("priced", priced, None), ("plain", priced, "none")):
        run_ranks(2, run_training, tmp_path / name, each, recipe(text, steps=2, compress=compress))
        kept[name] = load_file(tmp_path / name / "final" / "model.safetensors")
    assert all(torch.equal(kept["asked"][name], kept["priced"][name]) for name in kept["asked"])
    assert not all(torch.equal(kept["plain"][name], kept["priced"][name]) for name in kept["asked"])


def refused(plan: Plan, compress: str = "int8") -> list[str]:
    return [str(problem) for problem in compress_problems(plan, compress)]


def test_what_is_not_compressed_is_refused() -> None:
    assert refused(make_plan(SMALL, dp=2, zero=0)) == []
    assert "and the plan has zero 1" in refused(make_plan(SMALL, dp=2))[0]
    assert "dp and cp are 1" in refused(make_plan(SMALL, zero=0))[0]
    plan = make_plan(SMALL, dp=2, zero=0)
    limit = 10 + extra_bytes(4 * architecture(plan.model).parameters, 2)
    for short, expected in ((0, []), (1, ["compress"])):
        held = {"memory": (StageMemory(),), "peak_memory_bytes": (10,), "memory_limit_bytes": limit - short}
        predicted = plan.predicted.model_copy(update=held)
        problems = compress_problems(plan.model_copy(update={"predicted": predicted}), "fp8")
        assert [problem.field for problem in problems] == expected


def test_the_room_that_is_asked_for() -> None:
    """A residual for each number, one for each of a rank's part, and two messages of a byte and a share of a scale."""
    assert extra_bytes(4 * 1024, 4) == 4096 + 1024 + 2 * (1024 + 16)
