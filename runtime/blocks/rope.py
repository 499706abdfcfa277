"""Rope: the rotary positions of a config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """How Llama 3.1 stretches low rotary frequencies to longer contexts."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071): low frequencies are stretched, and attention is sharpened by the logarithm of it."""

    factor: float
    beta_fast: float
    beta_slow: float
    original_positions: int
    attention_factor: float  # of cosines and sines
    truncate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary positions (RoFormer, arXiv:2104.09864) of the first `width` entries of what is rotated."""

    theta: float
    width: int
    scaling: Llama3Scaling | YarnScaling | None = None
    interleaved: bool = False  # entries 2i and 2i+1 turn together (DeepSeek), not i and i + width/2


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters in one spelling: `rope_parameters` of transformers 5, or the older `rope_scaling`."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found["rope_type"] = found.get("rope_type", found.get("type", "default"))
    default = 1e6 if config.get("model_type") == "mixtral" else 1e4
    found.setdefault("rope_theta", config.get("rope_theta") or default)
    found.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    return found


def read_rope(config: Mapping[str, Any], head_dim: int, *, interleaved: bool = False) -> Rope:
    """Rotary positions of heads, or of parts of heads, that are `head_dim` wide."""
    rope = rope_parameters(config)
    width = int(head_dim * rope["partial_rotary_factor"])
    return Rope(theta=rope["rope_theta"], width=width, scaling=_scaling(config, rope), interleaved=interleaved)


def _scaling(config: Mapping[str, Any], rope: Mapping[str, Any]) -> Llama3Scaling | YarnScaling | None:
    original = rope.get("original_max_position_embeddings") or config.get("max_position_embeddings", 2048)
    if rope["rope_type"] == "llama3":
        return Llama3Scaling(
            factor=rope["factor"],
            low_freq_factor=rope["low_freq_factor"],
            high_freq_factor=rope["high_freq_factor"],
            original_positions=original,
        )
    if rope["rope_type"] == "yarn":
        return YarnScaling(
            factor=rope["factor"],
            beta_fast=rope.get("beta_fast") or 32,
            beta_slow=rope.get("beta_slow") or 1,
            original_positions=original,
            attention_factor=_attention_factor(rope),
            truncate=rope.get("truncate", True),
        )
    return None


def _attention_factor(rope: Mapping[str, Any]) -> float:
    """Equation 22 of arXiv:2309.00071 for the whole of it; DeepSeek divides it between here and the scores."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    one, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if one and all_dim:
        return sharpening(rope["factor"], one) / sharpening(rope["factor"], all_dim)
    return sharpening(rope["factor"], 1.0)


def sharpening(factor: float, weight: float) -> float:
    """By how much YaRN multiplies queries and keys each, for a context stretched by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
