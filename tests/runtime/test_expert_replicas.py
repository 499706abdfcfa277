"""Replicas of an expert stay one expert, and checkpoints know experts, wherever these lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import placement_ranks
import pytest
import torch
from expert_placements import placed
from harness import run_ranks
from moe_families import DEEPSEEK_V3, MIXTRAL
from plans import make_plan

from meshwright.planner.plan import Plan

STEPS = 30


@pytest.mark.parametrize(
    "options",
    [
        {"dp": 4, "zero": 1, **placed(MIXTRAL, 2, 4)},
        {"dp": 4, "zero": 3, "microbatch": 1, **placed(MIXTRAL, 4, 8)},
        {"dp": 2, "offload": 1.0, **placed(MIXTRAL, 2, 4)},
        {"pp": 2, "dp": 2, "precision": "bf16", **placed(MIXTRAL, 2, 4)},
    ],
    ids=["ep2 zero 1", "ep4 zero 3", "ep2 states on the host", "pp2 ep2 bf16"],
)
def test_replicas_are_equal_to_the_last_bit_after_many_steps(options: dict[str, Any], tmp_path: Path) -> None:
    plan = make_plan(MIXTRAL, **options)
    found = run_ranks(plan.configuration.mesh.world, placement_ranks.train_and_compare, plan, STEPS, tmp_path)
    for unequal, losses in found:
        assert unequal == []
        assert losses[-1] < losses[0] - 0.5


def test_a_replica_that_drifts_is_not_saved(tmp_path: Path) -> None:
    """One bit of a weight, or of a state, on one of two ranks; both name the expert."""
    plan = make_plan(MIXTRAL, dp=2, **placed(MIXTRAL, 2, 2))
    for said in run_ranks(2, placement_ranks.drift, plan, tmp_path):
        assert all(words.startswith("replicas of expert") and "gate_proj" in words for words in said), said


GROUPS_MOVED = (6, 7, 1, 0, 3, 2, 4, 5)
"""DeepSeek-V3's four groups of two experts in another order, and experts of a group exchanged."""

BEFORE: dict[str, dict[str, Any]] = {
    "groups permuted": {"dp": 2, "ep": 2, "placement": {"slots": (GROUPS_MOVED, GROUPS_MOVED[::-1])}},
    "contiguous": {"dp": 2, "ep": 2, "zero": 0},
}
AFTER: list[dict[str, Any]] = [
    {"dp": 2, "zero": 0, **placed(DEEPSEEK_V3, 2, seed=7)},
    {"dp": 4, "zero": 3, "microbatch": 1, **placed(DEEPSEEK_V3, 4, seed=8)},
    {"tp": 2, "sp": True, "etp": 2},
]


@pytest.mark.parametrize("name", BEFORE)
def test_a_run_goes_on_under_another_placement(name: str, tmp_path: Path) -> None:
    """Weights, moments and biases bit by bit, and then the same curve; the ranks of ep may change with it."""
    before, states = make_plan(DEEPSEEK_V3, **BEFORE[name]), tmp_path / "states.pt"
    expected = run_ranks(2, placement_ranks.train_and_save, before, tmp_path / "run", 2, 4, states)[0]
    for options in AFTER:
        assert_goes_on(make_plan(DEEPSEEK_V3, **options), tmp_path / "run", states, expected[2:])


def assert_goes_on(after: Plan, run: Path, states: Path, expected: list[float]) -> None:
    world, last = after.configuration.mesh.world, 2 + len(expected)
    ranks = run_ranks(world, placement_ranks.restore_and_train, after, run, last, states)
    restored: dict[str, bool] = {}
    for equal, losses in ranks:
        assert all(equal.values()), equal
        assert losses == pytest.approx(expected, rel=1e-5)
        restored |= equal
    assert restored.keys() == torch.load(states).keys()


def test_a_run_goes_on_with_other_replicas(tmp_path: Path) -> None:
    states = tmp_path / "states.pt"
    before = make_plan(MIXTRAL, dp=4, zero=1, **placed(MIXTRAL, 2, 4))
    arguments = (tmp_path / "run", 2, 4, states)
    expected = run_ranks(4, placement_ranks.train_and_save, before, *arguments)[0]
    for options in (
        {"dp": 4, "zero": 3, **placed(MIXTRAL, 4, 4, seed=9)},
        {"pp": 2, "dp": 2, **placed(MIXTRAL, 2, 2)},
        {},
    ):
        assert_goes_on(make_plan(MIXTRAL, **options), tmp_path / "run", states, expected[2:])
