"""Context parallelism in training beside what docs/parity.md has: padded sequences, and families with more than rotary
positions. A few steps each; all rows of one world size share their processes."""

from __future__ import annotations

from typing import Any

import pytest
from families import DENSE, LATENT
from harness import run_ranks
from parity_table.outcome import BARS, Outcome
from parity_table.row import Row
from parity_table.run import run_rows
from plans import LLAMA, make_plan
from workers import short_run

RING = {"cp": 2}
ULYSSES = {"cp": 2, "cp_algorithm": "ulysses"}
TOKEN_RING = {"cp": 2, "cp_algorithm": "token-ring"}
GATHER = {"cp": 2, "cp_algorithm": "allgather"}
USP = {"cp": 4, "cp_algorithm": "usp", "cp_ulysses": 2}

PADDED: dict[str, dict[str, Any]] = {
    "cp2 ulysses recompute": {**ULYSSES, "recompute": "full"},
    "cp2 allgather zero0": {**GATHER, "zero": 0},
    "cp2 ring, tp2 sp": {**RING, "tp": 2, "sp": True, "microbatch": 4},
    "cp2 ulysses, tp2": {**ULYSSES, "tp": 2, "microbatch": 4},
    "cp2 token-ring, pp2 recompute": {**TOKEN_RING, "pp": 2, "recompute": "full"},
    "cp2 ring, dp2 zero3 recompute": {**RING, "dp": 2, "zero": 3, "recompute": "full"},
    "cp4 usp": USP,
    "cp4 token-ring": {**TOKEN_RING, "cp": 4},
}
MESHES = {"ulysses": ULYSSES, "token-ring": {**TOKEN_RING, "recompute": "full"}, "usp": USP, "allgather": GATHER}
FAMILIES = {name: {**DENSE, **LATENT}[name] for name in ("gpt2", "gemma2", "deepseek_v3, dense")}

ROWS = [Row(name, {**options, "seq_len": 29}) for name, options in PADDED.items()]
FAMILY_ROWS = [
    Row(f"{family}, {mesh}", {**options, "seq_len": 29, "microbatch": 8, "config": config})
    for mesh, options in MESHES.items()
    for family, config in FAMILIES.items()
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return run_rows(ROWS, tmp_path_factory.mktemp("padded"), steps=4, memory=False)


@pytest.fixture(scope="module")
def first_steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return run_rows(FAMILY_ROWS, tmp_path_factory.mktemp("families"), steps=1, memory=False)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_sequence_that_does_not_divide_trains_as_on_one_device(row: Row, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[row.name].broken() == []


@pytest.mark.parametrize("row", FAMILY_ROWS, ids=lambda row: row.name)
def test_positions_windows_caps_and_latents(row: Row, first_steps: dict[str, Outcome]) -> None:
    found = first_steps[row.name]
    assert found.error == ""
    assert (found.loss < BARS["loss"], found.first_gradient < BARS["first_gradient"]) == (True, True), found


@pytest.mark.parametrize("algorithm", ["ring", "ulysses", "token-ring", "allgather"])
def test_bf16_trains_with_float32_sums(algorithm: str) -> None:
    exact = run_ranks(1, short_run, make_plan(LLAMA))[0][0]
    plan = make_plan(LLAMA, cp=2, cp_algorithm=algorithm, precision="bf16")
    for losses, dtypes in run_ranks(2, short_run, plan):
        assert dtypes == {"torch.float32"}
        assert losses == pytest.approx(exact, rel=2e-2)
        assert losses != exact
