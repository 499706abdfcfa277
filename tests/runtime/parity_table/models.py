"""The models of the table, as config.json has them."""

from __future__ import annotations

from typing import Any

import families
import moe_families
from plans import LLAMA

_DEEPER = {"num_hidden_layers": 5}
_EVEN = {**_DEEPER, "initializer_range": 0.02, "pad_token_id": None}  # or transformers trains no embedding of token 0
_SPARSE = {**LLAMA, "intermediate_size": 64, "num_experts_per_tok": 2}

MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama with biases": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "mistral": {**LLAMA, "model_type": "mistral", "sliding_window": 64},
    "qwen2": {**LLAMA, "model_type": "qwen2"},
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 16},
    "gemma2": {**families.GEMMA2, **_EVEN},
    "gpt2": {**families.GPT2, "n_layer": 5, "n_positions": 256},
    "phi3": {**families.PHI3, **_EVEN},
    "mixtral": {**_SPARSE, "model_type": "mixtral", "num_local_experts": 8, "sliding_window": None},
    "qwen2_moe": {**moe_families.QWEN2_MOE, **_DEEPER},
    "qwen3_moe": {**moe_families.QWEN3_MOE, **_DEEPER},
    "olmoe": {**moe_families.OLMOE, **_DEEPER},
    "deepseek_v2": {**moe_families.DEEPSEEK_V2, **_DEEPER},
    "deepseek_v3": {**moe_families.DEEPSEEK_V3, **_DEEPER},
}


_WIDER = (
    "hidden_size", "intermediate_size", "moe_intermediate_size", "head_dim", "max_position_embeddings",
    "sliding_window",
)  # fmt: skip


def widened(config: dict[str, Any]) -> dict[str, Any]:
    """Four times as wide, with twice the vocabulary."""
    wider = {name: 4 * config[name] for name in _WIDER if isinstance(config.get(name), int)}
    return {**config, **wider, "vocab_size": 2 * config["vocab_size"]}
