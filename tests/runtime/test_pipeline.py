"""Schedules train as one device does beyond what the parity table has: uneven, split, recomputed, listed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parity import assert_same
from plans import LLAMA

STEPS = 3
SEVEN = {**LLAMA, "num_hidden_layers": 7}
TIED = {**SEVEN, "tie_word_embeddings": True}

SCHEDULES: dict[str, dict[str, Any]] = {
    "gpipe": {"schedule": "gpipe", "stage_layers": (3, 4)},
    "1f1b": {"schedule": "1f1b", "stage_layers": (6, 1)},
    "interleaved": {"schedule": "interleaved", "vpp": 2, "stage_layers": (1, 3, 1, 2)},
    "zb-h1": {"schedule": "zb-h1", "stage_layers": (5, 2)},
    "zb-v": {"schedule": "zb-v", "vpp": 2, "stage_layers": (1, 3, 1, 2)},
    "dualpipev": {"schedule": "dualpipev", "vpp": 2, "stage_layers": (2, 1, 1, 3)},
}
SPLIT = ("zb-h1", "zb-v", "dualpipev")


@pytest.mark.parametrize("name", ["interleaved", *SPLIT])
def test_two_ranks_with_uneven_stages(name: str, tmp_path: Path) -> None:
    assert_same(SEVEN, {"pp": 2, "microbatch": 1, **SCHEDULES[name]}, STEPS, tmp_path)


@pytest.mark.parametrize("name", SPLIT)
def test_two_ranks_beside_data_parallel(name: str, tmp_path: Path) -> None:
    """Two replicas of ZeRO 1, four microbatches."""
    assert_same(SEVEN, {"pp": 2, "dp": 2, "zero": 1, "microbatch": 1, **SCHEDULES[name]}, STEPS, tmp_path)


@pytest.mark.parametrize("name", SPLIT)
def test_two_ranks_beside_tensor_parallel(name: str, tmp_path: Path) -> None:
    """Shards of weights are between parameter and product; sequence parallelism gathers inputs."""
    assert_same(SEVEN, {"pp": 2, "tp": 2, "sp": True, **SCHEDULES[name], "recompute": "full"}, STEPS, tmp_path)


@pytest.mark.parametrize("name", SPLIT)
def test_split_backwards_with_recompute(name: str, tmp_path: Path) -> None:
    assert_same(SEVEN, {"pp": 2, **SCHEDULES[name], "recompute": "full"}, STEPS, tmp_path)


@pytest.mark.parametrize("name", ["zb-h1", "zb-v"])
@pytest.mark.parametrize("zero", [0, 1])
def test_split_backwards_with_recompute_and_replicas(name: str, zero: int, tmp_path: Path) -> None:
    options = {"pp": 2, "dp": 2, "zero": zero, **SCHEDULES[name], "recompute": "full"}
    assert_same(SEVEN, options, STEPS, tmp_path)


def test_fewer_key_heads_than_ranks(tmp_path: Path) -> None:
    """Where key heads are replicated a product takes a part of the rows of a weight."""
    assert_same(LLAMA, {"pp": 2, "tp": 4, "schedule": "zb-h1"}, STEPS, tmp_path)


@pytest.mark.parametrize("name", ["1f1b", *SPLIT])
def test_three_microbatches(name: str, tmp_path: Path) -> None:
    assert_same(SEVEN, {"pp": 2, **SCHEDULES[name], "global_batch": 3, "microbatch": 1}, STEPS, tmp_path)


@pytest.mark.parametrize("name", ["1f1b", *SPLIT])
def test_fewer_microbatches_than_stages(name: str, tmp_path: Path) -> None:
    assert_same(SEVEN, {"pp": 2, **SCHEDULES[name], "microbatch": 8}, STEPS, tmp_path)


def test_four_ranks_in_a_v(tmp_path: Path) -> None:
    eight = {**LLAMA, "num_hidden_layers": 9}
    options = {"pp": 4, "vpp": 2, "schedule": "zb-v", "microbatch": 1, "stage_layers": (1, 1, 2, 1, 1, 1, 1, 1)}
    assert_same(eight, options, STEPS, tmp_path)


def test_four_ranks_of_zb_h1(tmp_path: Path) -> None:
    assert_same(SEVEN, {"pp": 4, "schedule": "zb-h1", "microbatch": 1}, STEPS, tmp_path)


@pytest.mark.parametrize("name", ["zb-v", "zb-h1", "dualpipev"])
def test_tied_embeddings(name: str, tmp_path: Path) -> None:
    """In a V the first and the last stage are on one rank, each with a copy."""
    options = {"pp": 2, "dp": 2, **SCHEDULES[name], "microbatch": 1}
    assert_same(TIED, options, STEPS, tmp_path)


def test_limits_on_what_ranks_hold(tmp_path: Path) -> None:
    """GPipe that may hold two: its backwards come between its forwards."""
    options = {"pp": 2, "microbatch": 1, **SCHEDULES["gpipe"], "in_flight": (2,)}
    assert_same(SEVEN, options, STEPS, tmp_path)


MIXED = (
    "0F0,0F1,3F1,3B1,0F2,3F0,3I0,0B1,3F2,0B0,3B2,0B2,3W0",
    "1F0,2F0,1F1,2F1,2B1,1B1,1F2,2F2,2I0,1I0,2W0,1W0,2B2,1I2,1W2",
)
"""Stages 0 and 3 on rank 0, 1 and 2 on rank 1; whole and split backwards; losses in another order than microbatches."""


def test_a_list_of_actions(tmp_path: Path) -> None:
    plan = {"pp": 2, "vpp": 2, "schedule": "custom", "actions": MIXED, "global_batch": 3, "microbatch": 1}
    assert_same(SEVEN, {**plan, "stage_layers": (1, 2, 3, 1)}, STEPS, tmp_path)


UNEVEN = ("0F0,2F0,2B0,0F1,2F1,2B1,0B0,0B1", "1F0,1F1,1I0,1W0,1I1,1W1")


def test_ranks_with_different_numbers_of_stages(tmp_path: Path) -> None:
    plan = {"pp": 2, "vpp": 2, "schedule": "custom", "actions": UNEVEN, "microbatch": 4}
    assert_same(SEVEN, {**plan, "stage_layers": (2, 4, 1)}, STEPS, tmp_path)
