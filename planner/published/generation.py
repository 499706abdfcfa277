"""Which generation of which framework ran a published row: by its name and year, never by its figures."""

from __future__ import annotations

import re

from ..configuration import Recompute
from .row import Row

_NAMES: tuple[tuple[str, str], ...] = (
    (r"nanotron", "nanotron"),
    (r"llm-foundry|composer|mosaic", "llm-foundry"),
    (r"bridge", "megatron-bridge"),
    (r"nemo", "nemo"),
    (r"megatron-deepspeed|megatron-lm \+ deepspeed", "megatron-deepspeed"),
    (r"hf|transformers|deepspeed", "deepspeed"),
    (r"oneflow|libai", "oneflow"),
    (r"paddle", "paddle"),
    (r"pax|maxtext|jax", "jax"),
    (r"titan|fsdp", "torchtitan"),
    (r"megatron|flagscale", "megatron-core"),
)
"""First match wins. Megatron-LM until 2022 had no fused attention: see `generation`."""

FUSED_ATTENTION = 2023
"""Year from which Megatron-LM runs fused attention (FlashAttention-2, Transformer Engine)."""


_RECOMPUTES: dict[str, Recompute] = {"megatron-lm": "full", "jax": "full"}
"""What is recomputed where a row does not say: Megatron-LM's own scripts checkpoint every layer until 2022; Pax's
checkpoint policy saves nothing (`CHECKPOINT_POLICY = SAVE_NOTHING` in `paxml/tasks/lm/params/lm_cloud.py`, `c4.py`)."""


def recompute_default(name: str) -> Recompute:
    """Of a framework."""
    return _RECOMPUTES.get(name, "none")


def generation(row: Row) -> str:
    """Name of the framework file that prices a row; the default one where nothing is stated."""
    text = row.framework.lower()
    for pattern, name in _NAMES:
        if re.search(pattern, text):
            return (
                "megatron-lm" if name == "megatron-core" and (row.year or FUSED_ATTENTION) < FUSED_ATTENTION else name
            )
    return "megatron-core"
