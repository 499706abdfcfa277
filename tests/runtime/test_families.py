"""Every family trains on tensor-parallel and pipelined meshes as its transformers model does on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from families import DENSE, LATENT
from parity import assert_same

CONFIGS = {**DENSE, **LATENT}
STEPS = 2

MESHES: dict[str, dict[str, Any]] = {
    "pp2 tp2 sp": {"pp": 2, "tp": 2, "sp": True, "microbatch": 4, "zero": 0},
    "tp4, more ranks than key heads, chunks": {"tp": 4, "microbatch": 8, "zero": 0, "logits_chunks": 3},
}
AROUND = {"cp": 2, "tp": 2, "sp": True, "microbatch": 8, "zero": 0}


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("family", CONFIGS)
def test_family_trains_as_transformers_does(family: str, mesh: str, tmp_path: Path) -> None:
    assert_same(CONFIGS[family], MESHES[mesh], STEPS, tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen2", "deepseek_v3, dense"])
def test_families_with_positions_windows_caps_and_latents_run_around_a_ring(family: str, tmp_path: Path) -> None:
    assert_same(CONFIGS[family], AROUND, STEPS, tmp_path)
