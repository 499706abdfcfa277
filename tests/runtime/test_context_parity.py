"""Context parallelism in training: the same losses, gradients and norms as one process, alone and beside other axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from families import DENSE, LATENT
from parity import assert_same
from plans import LLAMA

STEPS = 20  # where an algorithm is proven
FEW = 4  # where a product or a variant is

ONE_KEY_HEAD = {**LLAMA, "num_key_value_heads": 1}

ALGORITHMS: dict[str, dict[str, Any]] = {
    "cp2 ring": {"cp": 2},
    "cp4 ring": {"cp": 4},
    "cp4 ulysses": {"cp": 4, "cp_algorithm": "ulysses"},
    "cp4 usp": {"cp": 4, "cp_algorithm": "usp", "cp_ulysses": 2},
    "cp4 token-ring": {"cp": 4, "cp_algorithm": "token-ring"},
    "cp4 allgather": {"cp": 4, "cp_algorithm": "allgather"},
}
PRODUCTS: dict[str, dict[str, Any]] = {
    "cp2 ulysses": {"cp": 2, "cp_algorithm": "ulysses"},
    "cp2 token-ring": {"cp": 2, "cp_algorithm": "token-ring"},
    "cp2 allgather zero0": {"cp": 2, "cp_algorithm": "allgather", "zero": 0},
    "cp2 ring zero3 recompute": {"cp": 2, "zero": 3, "recompute": "full"},
    "cp2 ulysses recompute": {"cp": 2, "cp_algorithm": "ulysses", "recompute": "full"},
    "cp2 tp2 sp": {"cp": 2, "tp": 2, "sp": True, "microbatch": 4},
    "cp2 tp2 ulysses": {"cp": 2, "tp": 2, "cp_algorithm": "ulysses", "microbatch": 4},
    "cp2 pp2": {"cp": 2, "pp": 2},
    "cp2 pp2 token-ring recompute": {"cp": 2, "pp": 2, "cp_algorithm": "token-ring", "recompute": "full"},
    "cp2 dp2 zero1": {"cp": 2, "dp": 2},
    "cp2 dp2 zero3": {"cp": 2, "dp": 2, "zero": 3},
    "pp2 dp2 cp2": {"pp": 2, "dp": 2, "cp": 2},
    "pp2 cp2 tp2 sp": {"pp": 2, "cp": 2, "tp": 2, "sp": True},
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_trains_as_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, ALGORITHMS[name], STEPS, tmp_path)


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_trains_as_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, PRODUCTS[name], FEW, tmp_path)


@pytest.mark.parametrize("name", ["cp4 token-ring", "cp4 usp", "cp2 tp2 sp", "cp2 pp2"])
def test_a_sequence_that_does_not_divide_trains_as_on_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, {**ALGORITHMS, **PRODUCTS}[name] | {"seq_len": 29}, FEW, tmp_path)


@pytest.mark.parametrize("name", ["cp4 ring", "cp4 ulysses", "cp4 usp"])
def test_one_key_head_trains_as_one_device(name: str, tmp_path: Path) -> None:
    assert_same(ONE_KEY_HEAD, ALGORITHMS[name], FEW, tmp_path)


FAMILY_MESHES: dict[str, dict[str, Any]] = {
    "cp2 ulysses": {"cp": 2, "cp_algorithm": "ulysses", "seq_len": 29},
    "cp2 token-ring": {"cp": 2, "cp_algorithm": "token-ring", "seq_len": 29, "recompute": "full"},
    "cp4 usp": {"cp": 4, "cp_algorithm": "usp", "cp_ulysses": 2, "seq_len": 29},
    "cp2 allgather": {"cp": 2, "cp_algorithm": "allgather", "seq_len": 29},
}


@pytest.mark.parametrize("mesh", FAMILY_MESHES)
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "deepseek_v3, dense"])
def test_positions_windows_caps_and_latents(family: str, mesh: str, tmp_path: Path) -> None:
    assert_same({**DENSE, **LATENT}[family], FAMILY_MESHES[mesh] | {"microbatch": 8, "zero": 0}, 2, tmp_path)
