"""Data parallelism and ZeRO: what is communicated and in which precision; hybrid sharding is the same training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data_ranks
import pytest
from harness import run_ranks
from parity import assert_same
from plans import LLAMA, make_plan

UNITS = LLAMA["num_hidden_layers"] + 1
MICROBATCHES = 4

COPIES = {"dp": 4, "dp_replicate": 2}
HYBRID: dict[str, dict[str, Any]] = {
    "zero1": {**COPIES, "zero": 1},
    "zero2": {**COPIES, "zero": 2, "microbatch": 1},
    "zero3": {**COPIES, "zero": 3, "microbatch": 1},
    "zero1 tp2": {**COPIES, "zero": 1, "tp": 2, "sp": True},
    "zero1 pp2": {**COPIES, "zero": 1, "pp": 2, "microbatch": 1},
}


@pytest.mark.parametrize("name", HYBRID)
def test_hybrid_sharding_equals_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, HYBRID[name], 5, tmp_path)


@pytest.mark.parametrize(
    ("options", "gathers", "scatters", "sums"),
    [
        ({"dp": 2, "zero": 0}, 0, 0, UNITS),
        ({"dp": 2, "zero": 1}, UNITS, UNITS, 0),
        ({"dp": 2, "zero": 2}, UNITS, UNITS * MICROBATCHES, 0),
        ({"dp": 2, "zero": 3}, (2 * UNITS - 1) * MICROBATCHES, UNITS * MICROBATCHES, 0),
        ({**COPIES, "zero": 1}, UNITS, UNITS, UNITS),
        ({**COPIES, "zero": 2}, UNITS, UNITS * MICROBATCHES, UNITS),
        ({**COPIES, "zero": 3}, (2 * UNITS - 1) * MICROBATCHES, UNITS * MICROBATCHES, UNITS),
    ],
    ids=str,
)
def test_communication_of_a_step(options: dict[str, Any], gathers: int, scatters: int, sums: int) -> None:
    """The table of runtime/parallel/data.py; the loss is summed once over dp beside it."""
    plan = make_plan(LLAMA, **options, microbatch=1, global_batch=MICROBATCHES * options["dp"])
    for counts in run_ranks(options["dp"], data_ranks.communication, plan):
        assert counts == {"gather": gathers, "scatter": scatters, "sum": sums + 1}


@pytest.mark.parametrize(
    ("options", "gathers", "scatters", "sums"),
    [({"dp": 2, "zero": 0}, 0, 0, 1), ({"dp": 2, "zero": 1}, 1, 1, 0), ({**COPIES, "zero": 1}, 1, 1, 1)],
    ids=str,
)
def test_communication_of_a_step_under_a_pipeline(
    options: dict[str, Any], gathers: int, scatters: int, sums: int
) -> None:
    """Each rank has its stage's layers and what is beside them; the loss is summed over dp and pp."""
    plan = make_plan(LLAMA, pp=2, **options, microbatch=1, global_batch=MICROBATCHES * options["dp"])
    for rank, counts in enumerate(run_ranks(2 * options["dp"], data_ranks.communication, plan)):
        units = plan.stage_layers[rank // options["dp"]] + 1
        assert counts == {"gather": gathers * units, "scatter": scatters * units, "sum": sums * units + 2}


@pytest.mark.parametrize("options", [{"dp": 2, "zero": 0}, {"dp": 2, "zero": 3}, {**COPIES, "zero": 1}], ids=str)
def test_gradients_travel_in_float32(options: dict[str, Any]) -> None:
    plan = make_plan(LLAMA, **options, precision="bf16")
    for gathered, reduced in run_ranks(options["dp"], data_ranks.precisions, plan):
        assert reduced == {"torch.float32"}
        assert gathered == (set() if options["zero"] == 0 else {"torch.bfloat16"})
