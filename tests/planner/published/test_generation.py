"""Rows find their framework by its name and year alone."""

from __future__ import annotations

import pytest

from meshwright.planner.frameworks.framework import names
from meshwright.planner.published.generation import _NAMES, generation, recompute_default
from meshwright.planner.published.row import Row


def of(framework: str, year: int | None = None) -> str:
    return generation(Row(row_id="R", source="nanotron", gpu="H100", framework=framework, year=year))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("meshwright 0.1", "meshwright"),
        ("nanotron", "nanotron"),
        ("llm-foundry (Composer + PyTorch FSDP)", "llm-foundry"),  # not torchtitan, though it says FSDP
        ("Megatron-Bridge (Megatron-Core)", "megatron-bridge"),
        ("NeMo 2.0", "nemo"),
        ("Megatron-DeepSpeed", "megatron-deepspeed"),
        ("LiBai 9fc504c", "oneflow"),
        ("PaddleNLP (paddle 2.5.1)", "paddle"),
        ("MaxText (JAX)", "jax"),
        ("megatron-core core_v0.6.0", "megatron-core"),
        ("", "megatron-core"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert of(text, 2024) == name


def test_megatron_before_fused_attention_is_a_generation_of_its_own() -> None:
    assert [of("Megatron-LM", year) for year in (2020, 2022, 2023, None)] == [
        "megatron-lm", "megatron-lm", "megatron-core", "megatron-core"
    ]  # fmt: skip


def test_every_generation_is_bundled() -> None:
    assert {name for _, name in _NAMES} | {"megatron-lm"} <= set(names())


def test_what_old_scripts_recompute_unasked() -> None:
    def default(framework: str, year: int) -> str:
        return recompute_default(Row(row_id="R", source="s", gpu="A100", framework=framework, year=year))

    assert (default("Megatron-LM", 2021), default("nanotron", 2024)) == ("full", "none")
