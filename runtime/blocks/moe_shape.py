"""MoeShape: what the blocks must know of the experts of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Scoring = Literal["softmax", "sigmoid"]
GroupScore = Literal["best", "best two"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeShape:
    """Routed experts of which every token visits `top_k`, and a shared one that every token visits."""

    experts: int
    top_k: int
    width: int  # of one routed expert
    layers: frozenset[int]  # those that have experts; the others are dense
    shared_width: int = 0  # all shared experts as one block; 0: none
    shared_gate: bool = False  # a sigmoid decides how much of the shared expert counts (Qwen2-MoE)
    shared_bias: bool = False
    scoring: Scoring = "softmax"
    normalised: bool = False  # the chosen weights are divided by their sum
    scaling: float = 1.0  # and then multiplied by this
    groups: int = 1  # experts stand in groups, of which a token may use `top_groups`
    top_groups: int = 1
    group_score: GroupScore = "best"
    bias: bool = False  # added to the scores for the choice alone; moved by balancing without a loss
    exact_logits: bool = False  # router products are taken in float32, whatever the activations are
    hub_block: str = "mlp"  # what checkpoints call the block that the runtime calls mlp

    @property
    def shared_name(self) -> str:
        """The name that checkpoints give to the shared expert."""
        return "shared_expert" if self.shared_gate else "shared_experts"


def read_moe(config: Mapping[str, Any]) -> MoeShape | None:
    """The experts that a config.json describes, as the family's transformers 5 implementation reads them.

    None for families without experts.
    """
    reader = _READERS.get(str(config.get("model_type")))
    return None if reader is None else reader(config)


def _read_mixtral(config: Mapping[str, Any]) -> MoeShape:
    return MoeShape(
        experts=_first(config, "num_local_experts", "num_experts", default=8),
        top_k=config.get("num_experts_per_tok", 2),
        width=config.get("intermediate_size", 14336),
        layers=frozenset(range(config.get("num_hidden_layers", 32))),
        normalised=True,
        hub_block="block_sparse_moe",
    )


def _read_qwen2_moe(config: Mapping[str, Any]) -> MoeShape:
    return MoeShape(
        experts=config.get("num_experts", 60),
        top_k=config.get("num_experts_per_tok", 4),
        width=config.get("moe_intermediate_size", 1408),
        layers=_sparse_layers(config),
        shared_width=config.get("shared_expert_intermediate_size", 5632),
        shared_gate=True,
        normalised=config.get("norm_topk_prob", False),
    )


def _read_qwen3_moe(config: Mapping[str, Any]) -> MoeShape:
    return MoeShape(
        experts=_first(config, "num_experts", "num_local_experts", default=128),
        top_k=config.get("num_experts_per_tok", 8),
        width=config.get("moe_intermediate_size", 768),
        layers=_sparse_layers(config),
        normalised=config.get("norm_topk_prob", False),
    )


def _read_olmoe(config: Mapping[str, Any]) -> MoeShape:
    return MoeShape(
        experts=_first(config, "num_experts", "num_local_experts", default=64),
        top_k=config.get("num_experts_per_tok", 8),
        width=config.get("intermediate_size", 2048),
        layers=frozenset(range(config.get("num_hidden_layers", 16))),
        normalised=config.get("norm_topk_prob", False),
    )


def _read_deepseek_v2(config: Mapping[str, Any]) -> MoeShape:
    """arXiv:2405.04434, section 2.2: the weights are scaled and never normalised in transformers."""
    limited = config.get("topk_method", "greedy") == "group_limited_greedy"
    return MoeShape(
        experts=_first(config, "n_routed_experts", "num_local_experts", "num_experts", default=64),
        top_k=config["num_experts_per_tok"],
        width=config.get("moe_intermediate_size", 1407),
        layers=_layers_from(config, 0),
        shared_width=config.get("moe_intermediate_size", 1407) * config.get("n_shared_experts", 2),
        shared_bias=config.get("mlp_bias", False),
        scaling=config.get("routed_scaling_factor", 1.0),
        groups=(config.get("n_group") or 1) if limited else 1,
        top_groups=(config.get("topk_group") or 1) if limited else 1,
        exact_logits=True,
    )


def _read_deepseek_v3(config: Mapping[str, Any]) -> MoeShape:
    """arXiv:2412.19437, section 2.1.2."""
    return MoeShape(
        experts=_first(config, "n_routed_experts", "num_local_experts", "num_experts", default=256),
        top_k=config.get("num_experts_per_tok", 8),
        width=config.get("moe_intermediate_size", 2048),
        layers=_layers_from(config, 3),
        shared_width=config.get("moe_intermediate_size", 2048) * config.get("n_shared_experts", 1),
        scoring="sigmoid",
        normalised=config.get("norm_topk_prob", True),
        scaling=config.get("routed_scaling_factor", 2.5),
        groups=config.get("n_group", 8),
        top_groups=config.get("topk_group", 4),
        group_score="best two",
        bias=True,
        exact_logits=True,
    )


_READERS = {
    "mixtral": _read_mixtral,
    "qwen2_moe": _read_qwen2_moe,
    "qwen3_moe": _read_qwen3_moe,
    "olmoe": _read_olmoe,
    "deepseek_v2": _read_deepseek_v2,
    "deepseek_v3": _read_deepseek_v3,
}


def _first(config: Mapping[str, Any], *names: str, default: int) -> int:
    """The value of the first name that the file has: transformers takes each for the same field."""
    return int(next((config[name] for name in names if config.get(name) is not None), default))


def _sparse_layers(config: Mapping[str, Any]) -> frozenset[int]:
    """Every `decoder_sparse_step`-th layer but those of `mlp_only_layers` (Qwen)."""
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or ()
    layers = range(config.get("num_hidden_layers", 24))
    return frozenset(layer for layer in layers if layer not in dense and (layer + 1) % step == 0)


def _layers_from(config: Mapping[str, Any], default: int) -> frozenset[int]:
    """All layers but the first few (DeepSeek)."""
    return frozenset(range(config.get("first_k_dense_replace", default), config["num_hidden_layers"]))
