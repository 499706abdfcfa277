"""Experts in any slots, once or several times, train as transformers' model does on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from expert_placements import placed
from moe_families import DEEPSEEK_V3, MIXTRAL, QWEN2_MOE
from test_expert_parity import AUX_LOSS, FEW, assert_same

WIDE = {**MIXTRAL, "num_local_experts": 8}
PERMUTED: dict[str, dict[str, Any]] = {
    "ep2 dp2 zero 0": {"dp": 2, "zero": 0},
    "ep2 dp4 zero 3": {"dp": 4, "zero": 3, "microbatch": 1},
    "ep4 dp4 zero 1": {"dp": 4, "ep": 4},
    "ep2 etp2 tp2 sp dp2": {"tp": 2, "sp": True, "dp": 2, "etp": 2},
    "pp2 ep2 dp2 recompute": {"pp": 2, "dp": 2, "recompute": "full"},
    "deepseek_v3 ep2 dp2": {"config": DEEPSEEK_V3, "dp": 2},
    "qwen2_moe, a dense layer, ep2 dp2": {"config": QWEN2_MOE, "dp": 2},
}
REPLICATED: dict[str, dict[str, Any]] = {
    "ep2 dp2 zero 0": {"dp": 2, "zero": 0, "replicas": 2},
    "ep2 dp2 zero 1, all": {"dp": 2, "zero": 1, "replicas": 8},
    "ep2 dp4 zero 0": {"dp": 4, "zero": 0, "replicas": 4},
    "ep2 dp4 zero 1": {"dp": 4, "zero": 1, "replicas": 4},
    "ep2 dp4 zero 2, cut along the hidden size": {"dp": 4, "zero": 2, "replicas": 2},
    "ep2 dp4 zero 3": {"dp": 4, "zero": 3, "replicas": 4, "microbatch": 1},
    "ep4 dp4": {"dp": 4, "ep": 4, "replicas": 8},
    "ep2 etp2 tp2 sp dp2": {"tp": 2, "sp": True, "dp": 2, "etp": 2, "replicas": 2},
    "pp2 ep2 dp2 recompute": {"pp": 2, "dp": 2, "recompute": "full", "replicas": 2},
    "2 nodes, a copy for each, in chunks": {
        "dp": 4,
        "ep": 4,
        "replicas": 8,
        "nodes": 2,
        "dispatch": "nodes",
        "dispatch_chunks": 2,
    },
    "a copy for each rank, recompute": {"dp": 2, "replicas": 4, "dispatch": "ranks", "recompute": "full"},
    "swapped": {"dp": 4, "zero": 3, "microbatch": 1, "swap_layers": 2, "replicas": 4},
    "offloaded": {"dp": 2, "offload": 1.0, "replicas": 2},
}


def options_of(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config, and what make_plan takes."""
    options = {"ep": 2, "replicas": 0, "config": MIXTRAL, **options}
    config, ep, replicas = (options.pop(name) for name in ("config", "ep", "replicas"))
    return config, {**options, **placed(config, ep, replicas)}


@pytest.mark.parametrize("name", PERMUTED)
def test_permuted_experts_equal_one_device(name: str, tmp_path: Path) -> None:
    config, options = options_of(PERMUTED[name])
    assert_same(config, options, FEW, tmp_path)


@pytest.mark.parametrize("name", REPLICATED)
def test_replicas_equal_one_device(name: str, tmp_path: Path) -> None:
    config, options = options_of(REPLICATED[name])
    assert_same(config, options, FEW, tmp_path)


def test_balancing_speaks_of_experts(tmp_path: Path) -> None:
    config, options = options_of({"dp": 2, "replicas": 2})
    assert_same(config, options, FEW, tmp_path, aux_loss=AUX_LOSS, balance="global")


def test_biases_are_those_of_experts(tmp_path: Path) -> None:
    config, options = options_of({"config": DEEPSEEK_V3, "dp": 2})
    assert_same(config, options, FEW, tmp_path, aux_loss=AUX_LOSS, balance="bias", bias_rate=0.05)
