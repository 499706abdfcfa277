"""Every mesh trains as one device does: same losses, same gradients, same norms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from parity import assert_same, reference
from plans import LLAMA

STEPS = 20  # where one axis of parallelism, or a product of them, is proven
FEW = 4  # where a variant of it is

TIED = {**LLAMA, "tie_word_embeddings": True}
BIASED = {**LLAMA, "attention_bias": True, "mlp_bias": True}
QWEN2 = {**LLAMA, "model_type": "qwen2"}
QWEN3 = {**LLAMA, "model_type": "qwen3", "head_dim": 16}

MESHES: dict[str, dict[str, Any]] = {
    "one process": {},
    "dp2 zero0": {"dp": 2, "zero": 0},
    "dp2 zero1": {"dp": 2, "zero": 1},
    "dp2 zero2": {"dp": 2, "zero": 2},
    "dp2 zero3 recompute": {"dp": 2, "zero": 3, "recompute": "full"},
    "tp2": {"tp": 2, "microbatch": 4},
    "tp2 sp": {"tp": 2, "sp": True, "microbatch": 4},
    "pp2 gpipe uneven": {"pp": 2, "schedule": "gpipe", "stage_layers": (2, 3)},
    "pp2 1f1b uneven": {"pp": 2, "stage_layers": (4, 1), "microbatch": 1},
    "tp2 dp2 zero3": {"tp": 2, "dp": 2, "sp": True, "zero": 3, "microbatch": 4},
    "pp2 dp2 zero1": {"pp": 2, "dp": 2, "zero": 1},
    "pp2 tp2 sp recompute": {"pp": 2, "tp": 2, "sp": True, "microbatch": 4, "recompute": "full"},
    "tp2 pp2 dp2": {"tp": 2, "pp": 2, "dp": 2, "sp": True},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "tp4 sp, more ranks than key heads": {"tp": 4, "sp": True, "microbatch": 8},
    "pp3 1f1b, fewer microbatches than stages": {"pp": 3, "microbatch": 4},
    "pp2 interleaved": {"pp": 2, "schedule": "interleaved", "vpp": 2},
    "tp2 dp2 zero0": {"tp": 2, "dp": 2, "zero": 0, "microbatch": 4},
    "pp2 dp2 zero0": {"pp": 2, "dp": 2, "zero": 0},
}
TIED_MESHES: dict[str, dict[str, Any]] = {
    "dp2 zero2": {"dp": 2, "zero": 2},
    "tp2": {"tp": 2, "microbatch": 4},
    "pp2 dp2": {"pp": 2, "dp": 2},
    "pp3 tp2 sp": {"pp": 3, "tp": 2, "sp": True, "microbatch": 4},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama with biases": {"config": BIASED, "tp": 2, "sp": True, "microbatch": 4},
    "qwen2": {"config": QWEN2, "tp": 4, "microbatch": 8},
    "qwen3": {"config": QWEN3, "tp": 2, "dp": 2, "microbatch": 4},
}


def test_reference_learns() -> None:
    losses = reference(json.dumps(LLAMA), STEPS).losses
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("name", MESHES)
def test_mesh_equals_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, MESHES[name], STEPS, tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_equals_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, VARIANTS[name], FEW, tmp_path)


def test_tied_pipeline_equals_one_device(tmp_path: Path) -> None:
    assert_same(TIED, {"pp": 2}, STEPS, tmp_path)


@pytest.mark.parametrize("name", TIED_MESHES)
def test_tied_embeddings_equal_one_device(name: str, tmp_path: Path) -> None:
    assert_same(TIED, TIED_MESHES[name], FEW, tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_equals_one_device(name: str, tmp_path: Path) -> None:
    options = dict(FAMILIES[name])
    assert_same(options.pop("config"), options, FEW, tmp_path)
