"""What of a config.json the blocks cannot compute: details that the planner has no need of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import Problem, did_you_mean
from .blocks.moe_shape import read_moe
from .blocks.rope import rope_parameters
from .blocks.shape import ACTIVATIONS, activation_key, activation_name, dropout

_ROPE_KEYS = {
    "default": (),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
_ROUTING: dict[str, dict[str, tuple[object, ...]]] = {
    "deepseek_v2": {
        "topk_method": ("greedy", "group_limited_greedy"),
        "scoring_func": ("softmax",),
        "norm_topk_prob": (False, None),
    },
    "deepseek_v3": {"topk_method": ("noaux_tc",), "scoring_func": ("sigmoid",)},
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
    yield from _experts(config)
    if config["model_type"] != "gpt2":
        yield from _rope(config)


def dropout_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """What training with the model's dropout would leave out."""
    key = "attn_pdrop" if config["model_type"] == "gpt2" else "attention_dropout"
    if value := dropout(config, key):
        rule = "attention weights are never dropped out"
        yield Problem(f"model.config.{key}", value, rule, "0.0 in the config, or --set dropout=false for no dropout")


def _experts(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Ways to choose experts that the family's implementation in `transformers` does not have, or makes random."""
    family, moe = config["model_type"], read_moe(config)
    if moe is None:
        return
    if noise := config.get("router_jitter_noise"):
        yield Problem("model.config.router_jitter_noise", noise, "routing is never random", "0.0")
    for key, legal in _ROUTING.get(family, {}).items():
        value = config.get(key, legal[0])
        if value not in legal:
            rule = f"{family} has {' or '.join(str(each) for each in legal)} alone"
            yield Problem(f"model.config.{key}", value, rule, str(legal[0]))
    if moe.group_score == "best two" and moe.groups > 1 and moe.experts < 2 * moe.groups:
        rule = f"groups are judged by their best two experts, and {moe.experts} experts do not fill them"
        yield Problem("model.config.n_group", moe.groups, rule, str(moe.experts // 2))


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
