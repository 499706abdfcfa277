"""Which generation of which framework ran a published row: by its name and year, never by its figures."""

from __future__ import annotations

import re

from ..configuration import Recompute
from .row import Row

_NAMES: tuple[tuple[str, str], ...] = (
    (r"meshwright", "meshwright"),
    (r"nanotron", "nanotron"),
    (r"llm-foundry|composer|mosaic", "llm-foundry"),
    (r"bridge", "megatron-bridge"),
    (r"nemo", "nemo"),
    (r"megatron-deepspeed|megatron-lm \+ deepspeed|neox", "megatron-deepspeed"),
    (r"hf|transformers|deepspeed", "deepspeed"),
    (r"oneflow|libai", "oneflow"),
    (r"paddle", "paddle"),
    (r"pax|maxtext|jax", "jax"),
    (r"titan|fsdp|fairscale|pytorch", "torchtitan"),
    (r"megatron|flagscale", "megatron-core"),
)
"""First match wins. Megatron-LM until 2022 had no fused attention: see `generation`."""

ASSUMED = "megatron-core"
"""What prices a row whose framework is not recognized; said among its assumptions."""

FUSED_ATTENTION = 2023
"""Year from which Megatron-LM runs fused attention (FlashAttention-2, Transformer Engine)."""


_RECOMPUTES: dict[str, Recompute] = {"megatron-lm": "full", "jax": "full"}
"""What is recomputed where a row does not say: Megatron-LM's own scripts checkpoint every layer until 2022; Pax's
checkpoint policy saves nothing (`CHECKPOINT_POLICY = SAVE_NOTHING` in `paxml/tasks/lm/params/lm_cloud.py`, `c4.py`)."""


_OLDER = {
    "megatron-core": (FUSED_ATTENTION, "megatron-lm"),
    "megatron-deepspeed": (2022, "megatron-deepspeed-2021"),
    "deepspeed": (2022, "deepspeed-2021"),
}
"""First year of a generation, and the one before it: DeepSpeed 0.3 and 0.4 ran its pipelines and ZeRO 3 until 2021."""


def generation(row: Row) -> str:
    """Name of the framework file that prices a row; that of most published runs where none is recognized."""
    name = _named(row)
    return _of_year(name, row.year) if name else ASSUMED


def recognized(row: Row) -> bool:
    """Whether a row says what ran it, in a word that is known here."""
    return _named(row) is not None


def _named(row: Row) -> str | None:
    text = row.framework.lower()
    return next((name for pattern, name in _NAMES if re.search(pattern, text)), None)


def _of_year(name: str, year: int | None) -> str:
    """The older generation of a framework that has two."""
    first, older = _OLDER.get(name, (0, name))
    return older if (year or first) < first else name


def recompute_default(row: Row) -> Recompute:
    """What a row recomputes that does not say so. Pax's LLaMA rows reach 60 % MFU, which leaves room for attention
    alone (SAVE_DOT_WITH_NO_BATCH_DIM: what weights were multiplied with is kept)."""
    name = generation(row)
    return "selective" if name == "jax" and row.mlp == "swiglu" else _RECOMPUTES.get(name, "none")
