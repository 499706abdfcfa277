"""What tensor parallelism cuts follows from the structure of blocks."""

from __future__ import annotations

from typing import Any

import pytest
import workers
from families import DEEPSEEK_V3, GEMMA2, GPT2
from harness import run_ranks
from moe_families import OLMOE
from plans import make_plan

OPTIONS: dict[str, Any] = {"zero": 0, "microbatch": 8}
CUT: dict[str, dict[str, str]] = {
    "gpt2": {
        "self_attn.q_proj.weight": "S(0)",
        "self_attn.q_proj.bias": "S(0)",
        "self_attn.o_proj.weight": "S(1)",
        "self_attn.o_proj.bias": "R",
        "mlp.up_proj.weight": "S(0)",
        "mlp.up_proj.bias": "S(0)",
        "mlp.down_proj.weight": "S(1)",
        "mlp.down_proj.bias": "R",
        "input_layernorm.bias": "R",
        "model.embed_tokens.weight": "S(0)",
        "model.embed_positions.weight": "R",
    },
    "gemma2": {
        "mlp.gate_proj.weight": "S(0)",
        "mlp.up_proj.weight": "S(0)",
        "mlp.down_proj.weight": "S(1)",
        "post_feedforward_layernorm.weight": "R",
    },
    "deepseek_v3": {
        "self_attn.q_a_proj.weight": "R",
        "self_attn.q_a_layernorm.weight": "R",
        "self_attn.q_b_proj.weight": "S(0)",
        "self_attn.kv_a_proj_with_mqa.weight": "R",
        "self_attn.kv_b_proj.weight": "S(0)",
        "self_attn.o_proj.weight": "S(1)",
        "lm_head.weight": "S(0)",
    },
    "olmoe": {"self_attn.q_norm.weight": "S(0)", "self_attn.k_norm.weight": "S(0)"},
}
CONFIGS = {"gpt2": GPT2, "gemma2": GEMMA2, "deepseek_v3": DEEPSEEK_V3, "olmoe": OLMOE}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str]]:
    plans = [make_plan(config, tp=2, sp=True, **OPTIONS) for config in CONFIGS.values()]
    return dict(zip(CONFIGS, run_ranks(2, workers.placements, plans)[0], strict=True))


@pytest.mark.parametrize("family", CUT)
def test_readers_are_cut_by_outputs_and_writers_by_inputs(family: str, found: dict[str, dict[str, str]]) -> None:
    assert {name: found[family][name] for name in CUT[family]} == CUT[family]


def test_fewer_key_heads_than_ranks_are_held_by_all() -> None:
    """The weights of their norms too, where one norm spans all heads."""
    plans = [make_plan(config, tp=4, sp=True, **OPTIONS) for config in (GEMMA2, OLMOE)]
    gemma2, olmoe = run_ranks(4, workers.placements, plans)[0]
    for names in (gemma2, olmoe):
        assert (names["self_attn.q_proj.weight"], names["self_attn.k_proj.weight"]) == ("S(0)", "R")
    assert (olmoe["self_attn.q_norm.weight"], olmoe["self_attn.k_norm.weight"]) == ("S(0)", "R")
