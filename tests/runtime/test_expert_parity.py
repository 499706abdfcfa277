"""Experts spread over any mesh train as transformers' model does on one device."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import expert_workers
import pytest
import torch
from expert_oracle import Balancing, train_reference
from harness import run_ranks
from moe_families import DEEPSEEK_V2, DEEPSEEK_V3, MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE
from oracle import Curve
from plans import make_plan
from worst import worst

STEPS = 20  # where one way of spreading experts is proven
FEW = 4  # where a product or a variant of it is

MESHES: dict[str, dict[str, Any]] = {
    "one process": {},
    "ep2 dp2 zero 0": {"dp": 2, "ep": 2, "zero": 0},
    "ep2 dp4 zero 3": {"dp": 4, "ep": 2, "zero": 3, "microbatch": 1},
    "ep2 tp2 sp": {"tp": 2, "sp": True, "ep": 2, "microbatch": 4},
    "etp2 tp2 sp": {"tp": 2, "sp": True, "etp": 2, "microbatch": 4},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "tp2 sp": {"tp": 2, "sp": True, "microbatch": 4},
    "ep2 dp4 zero 0": {"dp": 4, "ep": 2, "zero": 0, "microbatch": 1},
    "ep2 dp4 zero 1": {"dp": 4, "ep": 2, "zero": 1, "microbatch": 1},
    "ep2 dp4 zero 0 recompute": {"dp": 4, "ep": 2, "zero": 0, "recompute": "full"},
    "ep2 dp4 zero 2": {"dp": 4, "ep": 2, "zero": 2, "microbatch": 1},
    "ep2 dp4 zero 3 recompute": {"dp": 4, "ep": 2, "zero": 3, "microbatch": 1, "recompute": "full"},
    "ep2 dp4 zero 3 selective recompute": {
        "dp": 4, "ep": 2, "zero": 3, "recompute": "selective", "recompute_operations": ("moe",),
    },
    "ep4 dp4": {"dp": 4, "ep": 4},
    "ep2 tp4 sp": {"tp": 4, "sp": True, "ep": 2, "microbatch": 4},
    "ep2 etp2 tp2 sp dp2": {"tp": 2, "sp": True, "dp": 2, "ep": 2, "etp": 2},
    "ep4 tp2 sp dp2": {"tp": 2, "sp": True, "dp": 2, "ep": 4},
    "pp2 ep2 dp2 1f1b": {"pp": 2, "dp": 2, "ep": 2},
    "pp2 ep2 dp2 recompute": {"pp": 2, "dp": 2, "ep": 2, "recompute": "full"},
    "pp2 ep2 dp2 zb-h1 recompute": {
        "pp": 2, "dp": 2, "ep": 2, "schedule": "zb-h1", "microbatch": 1, "recompute": "full",
    },
    "pp2 tp2 sp ep2 zb-h1": {"pp": 2, "tp": 2, "sp": True, "ep": 2, "schedule": "zb-h1"},
}  # fmt: skip


FAMILIES: dict[str, dict[str, Any]] = {
    "deepseek_v3, ep2 dp2": {"config": DEEPSEEK_V3, "dp": 2, "ep": 2},
    "deepseek_v3, pp2 tp2 sp etp2 recompute": {
        "config": DEEPSEEK_V3, "pp": 2, "tp": 2, "sp": True, "etp": 2, "recompute": "full",
    },
    "deepseek_v3, ep2 tp2 sp selective recompute": {
        "config": DEEPSEEK_V3, "tp": 2, "sp": True, "ep": 2, "recompute": "selective",
        "recompute_operations": ("layernorm", "moe_act", "mlp"),
    },
    "deepseek_v2, tp2 sp ep2": {"config": DEEPSEEK_V2, "tp": 2, "sp": True, "ep": 2},
    "qwen2_moe, tp2 sp dp2 ep4": {"config": {**QWEN2_MOE, "num_experts": 8}, "tp": 2, "sp": True, "dp": 2, "ep": 4},
    "qwen3_moe, ep2 dp2 selective recompute": {
        "config": QWEN3_MOE, "dp": 2, "ep": 2, "recompute": "selective", "recompute_operations": ("moe", "layernorm"),
    },
    "olmoe, cp2 ep2": {"config": OLMOE, "cp": 2, "ep": 2},
    "deepseek_v3, dp2 cp2 tp2 sp ep4 etp2": {
        "config": DEEPSEEK_V3, "dp": 2, "cp": 2, "tp": 2, "sp": True, "ep": 4, "etp": 2,
    },
    "mixtral, hybrid dp4 ep2": {"config": MIXTRAL, "dp": 4, "dp_replicate": 2, "zero": 3, "ep": 2},
    "olmoe, tp4 sp ep2, more ranks than key heads": {
        "config": {**OLMOE, "clip_qkv": 0.03}, "tp": 4, "sp": True, "ep": 2, "microbatch": 4,
    },
    "olmoe, pp2 tp2 sp ep2": {"config": OLMOE, "pp": 2, "tp": 2, "sp": True, "ep": 2},
    "deepseek_v3, ep2 dp2 states on the host": {"config": DEEPSEEK_V3, "dp": 2, "ep": 2, "offload": 1.0},
    "deepseek_v3, ep2 dp4 2 layers on the device": {
        "config": DEEPSEEK_V3, "dp": 4, "ep": 2, "zero": 3, "microbatch": 1, "swap_layers": 2,
    },
    "mixtral, ep2 tp2 sp 2 layers on the device": {
        "config": MIXTRAL, "tp": 2, "sp": True, "ep": 2, "swap_layers": 2, "microbatch": 4,
    },
    "mixtral, cp2 tp2 sp ep4": {"config": MIXTRAL, "cp": 2, "tp": 2, "sp": True, "ep": 4},
}  # fmt: skip
BALANCED: dict[str, dict[str, Any]] = {
    "global, one process": {"balance": "global"},
    "global, ep2 dp2": {"balance": "global", "dp": 2, "ep": 2},
    "global, tp2 sp ep2, z-loss": {"balance": "global", "z_loss": 0.01, "tp": 2, "sp": True, "ep": 2},
    "global, pp2 ep2 dp2 recompute": {"balance": "global", "pp": 2, "dp": 2, "ep": 2, "recompute": "full"},
    "global, pp2 zb-h1 ep2 dp2": {"balance": "global", "pp": 2, "dp": 2, "ep": 2, "schedule": "zb-h1", "microbatch": 1},
    "global, pp2 zb-v tp2 sp ep2 recompute": {
        "config": {**MIXTRAL, "num_hidden_layers": 4}, "balance": "global", "pp": 2, "vpp": 2, "schedule": "zb-v",
        "tp": 2, "sp": True, "ep": 2, "recompute": "full",
    },
    "microbatch, ep2 dp2": {"balance": "microbatch", "dp": 2, "ep": 2, "microbatch": 1},
    "microbatch, tp2 sp ep2": {"balance": "microbatch", "tp": 2, "sp": True, "ep": 2},
    "global, deepseek_v3, tp2 sp etp2": {"config": DEEPSEEK_V3, "balance": "global", "tp": 2, "sp": True, "etp": 2},
    "bias, deepseek_v3, ep2 dp2": {"config": DEEPSEEK_V3, "balance": "bias", "bias_rate": 0.05, "dp": 2, "ep": 2},
    "bias, deepseek_v3, pp2 tp2 sp ep2 recompute": {
        "config": DEEPSEEK_V3, "balance": "bias", "bias_rate": 0.05, "pp": 2, "tp": 2, "sp": True, "ep": 2,
        "recompute": "full",
    },
}  # fmt: skip
RECIPE = ("balance", "z_loss", "bias_rate")
AUX_LOSS = 0.5  # so large that leaving it out, or a wrong factor, would show in every gradient


@cache
def reference(config: str, steps: int, balancing: Balancing) -> Curve:
    return train_reference(json.loads(config), steps=steps, seq_len=32, global_batch=8, balancing=balancing)


def assert_same(config: dict[str, Any], options: dict[str, Any], steps: int, folder: Path, **recipe: Any) -> None:
    recipe = {"balance": "none", **recipe}
    plan = make_plan(config, **options)
    unlike = plan.schedule.microbatches, plan.mesh.dp
    microbatches, dp = (1, 1) if recipe["balance"] == "none" and not recipe.get("z_loss") else unlike
    expected = reference(json.dumps(config), steps, Balancing(**recipe, dp=dp, microbatches=microbatches))
    torch.save(expected.first_gradients, folder / "gradients.pt")
    world = plan.configuration.mesh.world
    ranks = run_ranks(world, expert_workers.train, plan, steps, folder / "gradients.pt", recipe)
    errors = {name: error for _, _, found in ranks for name, error in found.items()}
    assert errors.keys() == expected.first_gradients.keys()
    assert worst(errors.values()) < 1e-5, errors
    for losses, norms, _ in ranks:
        assert losses == pytest.approx(expected.losses, rel=1e-4)
        assert norms == pytest.approx(expected.norms, rel=1e-3)


@pytest.mark.parametrize("name", MESHES)
def test_experts_equal_one_device(name: str, tmp_path: Path) -> None:
    assert_same(MIXTRAL, MESHES[name], STEPS, tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_equals_one_device(name: str, tmp_path: Path) -> None:
    assert_same(MIXTRAL, VARIANTS[name], FEW, tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_equals_one_device(name: str, tmp_path: Path) -> None:
    options = dict(FAMILIES[name])
    assert_same(options.pop("config"), options, FEW, tmp_path)


@pytest.mark.parametrize("name", BALANCED)
def test_balancing_equals_one_device(name: str, tmp_path: Path) -> None:
    options = dict(BALANCED[name])
    recipe = {key: options.pop(key) for key in RECIPE if key in options}
    assert_same(options.pop("config", MIXTRAL), options, FEW, tmp_path, aux_loss=AUX_LOSS, **recipe)
