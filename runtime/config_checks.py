"""What of a config.json the blocks cannot compute: details that the planner has no need of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import Problem, did_you_mean
from .blocks.rope import rope_parameters
from .blocks.shape import ACTIVATIONS, activation_key, activation_name, dropout

_ROPE_KEYS = {
    "default": (),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
_PARTIAL = ("phi3",)  # families whose transformers implementation turns a part of each head


def config_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Everything in a config of a known family that the blocks would compute otherwise than `transformers`."""
    name, field = activation_name(config), f"model.config.{activation_key(config)}"
    if name not in ACTIVATIONS:
        rule = f"is none of {', '.join(ACTIVATIONS)}"
        yield Problem(field, name, rule, did_you_mean(str(name), ACTIVATIONS))
    if config.get("use_bidirectional_attention"):
        yield Problem("model.config.use_bidirectional_attention", True, "attention is causal", "false")
    if config["model_type"] != "gpt2":
        yield from _rope(config)


def dropout_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """What training with the model's dropout would leave out."""
    key = "attn_pdrop" if config["model_type"] == "gpt2" else "attention_dropout"
    if value := dropout(config, key):
        rule = "attention weights are never dropped out"
        yield Problem(f"model.config.{key}", value, rule, "0.0 in the config, or --set dropout=false for no dropout")


def _rope(config: Mapping[str, Any]) -> Iterator[Problem]:
    rope, family = rope_parameters(config), config["model_type"]
    legal = ("default",) if family == "phi3" else tuple(_ROPE_KEYS)
    if rope["rope_type"] not in legal:
        rule = f"only {' and '.join(legal)} rotary positions run in {family}"
        yield Problem("model.config.rope_scaling", rope["rope_type"], rule, legal[0])
    for key in _ROPE_KEYS.get(rope["rope_type"], ()):
        if not isinstance(rope.get(key), int | float):
            yield Problem(f"model.config.rope_scaling.{key}", rope.get(key), f"is required by {rope['rope_type']}")
    part = rope["partial_rotary_factor"]
    if part != 1.0 and family not in _PARTIAL:
        yield Problem("model.config.partial_rotary_factor", part, f"{family} turns whole heads", "1.0")
