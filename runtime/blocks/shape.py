"""Shape: what the blocks must know of a config.json of the Llama family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .moe_shape import MoeShape, read_moe

# What a family's `transformers` configuration class fills in for a key that the file leaves out.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "mixtral": {"num_key_value_heads": 8, "sliding_window": None},
    "qwen2_moe": {"num_key_value_heads": 16},
    "qwen3_moe": {"num_key_value_heads": 4},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """How Llama 3.1 stretches low rotary frequencies to longer contexts."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes and switches of one model of the Llama family."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    tied_embeddings: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    initializer_range: float
    moe: MoeShape | None = None  # None: every layer is dense


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters in one spelling: `rope_parameters` of transformers 5, or the older `rope_scaling`."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found["rope_type"] = found.get("rope_type", found.get("type", "default"))
    found.setdefault("rope_theta", config.get("rope_theta") or 10000.0)
    return found


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its family's defaults filled in."""
    return {**FAMILIES.get(str(config.get("model_type")), {}), **config}


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The shape that a supported config.json describes (`checks.problems` says which are supported)."""
    family = config["model_type"]
    config = with_defaults(config)
    heads = config["num_attention_heads"]
    attention_bias = config.get("attention_bias", False)
    return Shape(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab=config["vocab_size"],
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=rope_parameters(config)["rope_theta"],
        rope_scaling=_scaling(config),
        tied_embeddings=config.get("tie_word_embeddings", False),
        qkv_bias=family in ("qwen2", "qwen2_moe") or (family not in ("mistral", "mixtral") and attention_bias),
        out_bias=family in ("llama", "qwen3", "qwen3_moe") and attention_bias,
        mlp_bias=family == "llama" and config.get("mlp_bias", False),
        qk_norm=family in ("qwen3", "qwen3_moe"),
        initializer_range=config.get("initializer_range", 0.02),
        moe=read_moe(config),
    )


def _scaling(config: Mapping[str, Any]) -> Llama3Scaling | None:
    rope = rope_parameters(config)
    if rope["rope_type"] != "llama3":
        return None
    return Llama3Scaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_positions=rope.get("original_max_position_embeddings", config.get("max_position_embeddings", 2048)),
    )
