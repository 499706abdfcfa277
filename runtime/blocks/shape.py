"""Shape: what the blocks must know of a config.json, whatever the family.

The planner's architecture has read sizes, biases, windows and experts; here stands what only computing needs:
norms, activations, scales, rotary positions, dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...planner.families import ModelSpec, architecture
from ...planner.model import Architecture, Latent, Mlp
from .moe_shape import MoeShape, read_moe
from .rope import Rope, read_rope, rope_parameters, sharpening

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
NormKind = Literal["rms", "offset", "layer"]  # offset: scaled by 1 + weight

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_NORMS: dict[str, NormKind] = {"gpt2": "layer", "gemma2": "offset"}
_NORM_EPS = {"mixtral": 1e-5, "olmoe": 1e-5, "phi3": 1e-5}  # transformers' defaults where they are not 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes and switches of one model."""

    family: str
    hidden: int
    intermediate: int  # of dense feed-forward blocks; 0 where every layer has experts
    layers: int
    heads: int
    kv_heads: int
    head_dim: int  # of queries and keys
    value_dim: int
    vocab: int
    windows: tuple[int | None, ...]  # of each layer; None: attention sees everything before
    moe: MoeShape | None  # None: every layer is dense
    latent: Latent | None
    norm: NormKind
    norm_eps: float
    sandwich: bool  # norms after attention and feed-forward too, before the residual is added
    rope: Rope | None
    learned_positions: int  # rows of a learned table; 0: none
    activation: Activation
    gated: bool
    tied_embeddings: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: Literal["none", "head", "whole"]  # of each query and key head, or over all of them
    clip_qkv: float | None
    score_scale: float
    score_scale_by_layer: bool  # layer i divides its scores by i + 1 as well
    score_softcap: float | None
    logit_softcap: float | None
    embedding_scale: float
    embedding_dropout: float
    residual_dropout: float
    attention_dropout: float  # of attention weights, which the blocks never drop out
    initializer_range: float

    @property
    def unit_norm(self) -> float:
        """The weight of a norm that scales nothing."""
        return 0.0 if self.norm == "offset" else 1.0

    @property
    def drops_out(self) -> bool:
        """Whether training drops hidden states out."""
        return self.embedding_dropout > 0 or self.residual_dropout > 0

    def scale(self, index: int) -> float:
        """What layer `index` multiplies its attention scores with."""
        return self.score_scale / (index + 1 if self.score_scale_by_layer else 1)


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes. Raises InputError as the planner does.

    `config_problems` says what of a config the blocks cannot compute.
    """
    model = architecture(ModelSpec(name="model", config=dict(config)))
    family = model.family
    dense = [layer.ffn for layer in model.layers if isinstance(layer.ffn, Mlp)]
    return Shape(
        family=family,
        hidden=model.hidden,
        intermediate=dense[0].width if dense else 0,
        layers=len(model.layers),
        vocab=model.vocab,
        moe=read_moe(config),
        norm=_NORMS.get(family, "rms"),
        norm_eps=_norm_eps(config, family),
        sandwich=family == "gemma2",
        learned_positions=model.learned_positions,
        activation=ACTIVATIONS[activation_name(config)],
        gated=dense[0].gated if dense else True,
        mlp_bias=dense[0].bias if dense else False,
        tied_embeddings=model.tied_embeddings,
        logit_softcap=config.get("final_logit_softcapping", 30.0) if family == "gemma2" else None,
        embedding_scale=model.hidden**0.5 if family == "gemma2" else 1.0,
        embedding_dropout=dropout(config, "embd_pdrop") if family == "gpt2" else 0.0,
        residual_dropout=dropout(config, "resid_pdrop") if family in ("gpt2", "phi3") else 0.0,
        attention_dropout=dropout(config, "attn_pdrop" if family == "gpt2" else "attention_dropout"),
        initializer_range=config.get("initializer_range", 0.02),
        **_attention(config, model),
    )


def _attention(config: Mapping[str, Any], model: Architecture) -> dict[str, Any]:
    """The fields of a shape that only attention looks at."""
    first, family = model.layers[0].attention, model.family
    whole = "whole" if family == "olmoe" else "head"
    return {
        "heads": first.heads,
        "kv_heads": first.kv_heads,
        "head_dim": first.head_dim,
        "value_dim": first.value_dim,
        "windows": tuple(layer.attention.window for layer in model.layers),
        "latent": first.latent,
        "rope": _rope(config, model),
        "qkv_bias": first.qkv_bias,
        "out_bias": first.out_bias,
        "qk_norm": whole if first.qk_norm_parameters else "none",
        "clip_qkv": config.get("clip_qkv") if family == "olmoe" else None,
        "score_scale": _score_scale(config, model),
        "score_scale_by_layer": family == "gpt2" and bool(config.get("scale_attn_by_inverse_layer_idx", False)),
        "score_softcap": config.get("attn_logit_softcapping", 50.0) if family == "gemma2" else None,
    }


def activation_key(config: Mapping[str, Any]) -> str:
    """What the family's config calls the activation of its feed-forward blocks."""
    return {"gpt2": "activation_function", "gemma2": "hidden_activation"}.get(config["model_type"], "hidden_act")


def activation_name(config: Mapping[str, Any]) -> str:
    """The activation of feed-forward blocks; where the file is silent, the family's."""
    default = {"gpt2": "gelu_new", "gemma2": "gelu_pytorch_tanh"}.get(config["model_type"], "silu")
    name: str = config.get(activation_key(config), default)
    return name


def dropout(config: Mapping[str, Any], key: str) -> float:
    """A probability: 0.1 where GPT-2's file is silent, as of other families 0."""
    return float(config.get(key, 0.1 if config["model_type"] == "gpt2" else 0.0))


def _norm_eps(config: Mapping[str, Any], family: str) -> float:
    if family == "gpt2":
        return float(config.get("layer_norm_epsilon", 1e-5))
    return float(config.get("rms_norm_eps", _NORM_EPS.get(family, 1e-6)))


def _rope(config: Mapping[str, Any], model: Architecture) -> Rope | None:
    if model.learned_positions:
        return None
    attention = model.layers[0].attention
    if attention.latent is None:
        return read_rope(config, attention.head_dim)
    # DeepSeek-V3's config may say halves; V2's knows pairs only.
    interleaved = model.family == "deepseek_v2" or config.get("rope_interleave", True)
    return read_rope(config, attention.latent.rope_dim, interleaved=interleaved)


def _score_scale(config: Mapping[str, Any], model: Architecture) -> float:
    head_dim = model.layers[0].attention.head_dim
    if model.family == "gemma2":
        return float(config.get("query_pre_attn_scalar", 256) ** -0.5)
    if model.family == "gpt2" and not config.get("scale_attn_weights", True):
        return 1.0
    rope = rope_parameters(config)
    if model.layers[0].attention.latent is None or rope["rope_type"] == "default" or not rope.get("mscale_all_dim"):
        return float(head_dim**-0.5)
    return float(head_dim**-0.5 * sharpening(rope["factor"], rope["mscale_all_dim"]) ** 2)
