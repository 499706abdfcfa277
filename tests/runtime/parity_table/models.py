"""The models of the table, as config.json has them."""

from __future__ import annotations

from typing import Any

from plans import LLAMA

MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama with biases": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "mistral": {**LLAMA, "model_type": "mistral", "sliding_window": 64},
    "qwen2": {**LLAMA, "model_type": "qwen2"},
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 16},
}


_WIDER = (
    "hidden_size", "intermediate_size", "moe_intermediate_size", "head_dim", "max_position_embeddings",
    "sliding_window",
)  # fmt: skip


def widened(config: dict[str, Any]) -> dict[str, Any]:
    """Four times as wide, with twice the vocabulary."""
    wider = {name: 4 * config[name] for name in _WIDER if isinstance(config.get(name), int)}
    return {**config, **wider, "vocab_size": 2 * config["vocab_size"]}
