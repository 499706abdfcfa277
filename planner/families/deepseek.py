"""DeepSeek-V2 and V3: latent attention, shared and routed experts after a few dense layers.

Counted as transformers' DeepseekV2ForCausalLM and DeepseekV3ForCausalLM: without the multi-token
prediction modules that V3 checkpoints also hold (`num_nextn_predict_layers`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..model import Architecture, Attention, Latent, Layer, Mlp, Moe
from .common import decoder, gated_mlp, head_count, hidden_size, layer_count, require_even_split, routing
from .fields import Fields, nearest_divisor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Defaults:
    """Of the configuration class."""

    hidden: int
    layers: int
    heads: int
    width: int
    dense_layers: int
    experts: int
    top_k: int | None
    expert_width: int
    shared: int
    groups: int
    top_groups: int
    vocab: int
    positions: int
    router_bias: bool = False


_V2 = _Defaults(
    hidden=4096,
    layers=32,
    heads=32,
    width=11008,
    dense_layers=0,
    experts=64,
    top_k=None,
    expert_width=1407,
    shared=2,
    groups=1,
    top_groups=1,
    vocab=102400,
    positions=2048,
)
_V3 = _Defaults(
    hidden=7168,
    layers=61,
    heads=128,
    width=18432,
    dense_layers=3,
    experts=256,
    top_k=8,
    expert_width=2048,
    shared=1,
    groups=8,
    top_groups=4,
    vocab=129280,
    positions=4096,
    router_bias=True,
)


def read_v2(fields: Fields) -> Architecture:
    hidden, heads = hidden_size(fields, _V2.hidden), head_count(fields, _V2.heads)
    require_even_split(fields, hidden, heads, ("hidden_size", "num_attention_heads"))
    grouped = fields.word("topk_method", "greedy") == "group_limited_greedy"
    return _read(fields, _V2, grouped=grouped, mlp_bias=fields.flag("mlp_bias", default=False))


def read_v3(fields: Fields) -> Architecture:
    return _read(fields, _V3, grouped=True, mlp_bias=False)


def _read(fields: Fields, defaults: _Defaults, *, grouped: bool, mlp_bias: bool) -> Architecture:
    hidden, count = hidden_size(fields, defaults.hidden), layer_count(fields, defaults.layers)
    attention = _latent_attention(fields, defaults)
    mlp = gated_mlp(fields, defaults.width, bias=mlp_bias)
    moe = _experts(fields, defaults, grouped=grouped, mlp_bias=mlp_bias)
    dense = fields.integer("first_k_dense_replace", default=defaults.dense_layers, least=0)
    frequency = fields.integer("moe_layer_freq", default=1)
    fields.require(frequency == 1, ("moe_layer_freq",), "must be 1: transformers knows no other", 1)
    layers = [Layer(hidden=hidden, attention=attention, ffn=mlp if i < dense else moe) for i in range(count)]
    return decoder(fields, layers, vocab=defaults.vocab, positions=defaults.positions)


def _latent_attention(fields: Fields, defaults: _Defaults) -> Attention:
    heads = head_count(fields, defaults.heads)
    keys = fields.optional_integer("num_key_value_heads") or heads
    rule = f"must equal num_attention_heads ({heads}): latent attention has no grouped keys"
    fields.require(keys == heads, ("num_key_value_heads",), rule, heads, given=("num_attention_heads",))
    latent = Latent(
        q_rank=fields.optional_integer("q_lora_rank", default=1536),
        kv_rank=fields.integer("kv_lora_rank", default=512),
        rope_dim=fields.integer("qk_rope_head_dim", default=64),
        nope_dim=fields.integer("qk_nope_head_dim", default=128),
    )
    even = latent.rope_dim % 2 == 0
    rule = "must be even: rotary positions turn pairs"
    fields.require(even, ("qk_rope_head_dim",), rule, latent.rope_dim + 1)
    bias = fields.flag("attention_bias", default=False)
    return Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=latent.rope_dim + latent.nope_dim,
        value_dim=fields.integer("v_head_dim", default=128),
        qkv_bias=bias,
        out_bias=bias,
        latent=latent,
    )


def _experts(fields: Fields, defaults: _Defaults, *, grouped: bool, mlp_bias: bool) -> Moe:
    names = ("n_routed_experts", "num_local_experts", "num_experts")
    experts, top_k = routing(fields, names, experts=defaults.experts, top_k=defaults.top_k)
    width = fields.integer("moe_intermediate_size", default=defaults.expert_width)
    shared = fields.optional_integer("n_shared_experts", default=defaults.shared, least=0) or 0
    groups, top_groups = _groups(fields, defaults, names, experts, top_k) if grouped else (1, 1)
    return Moe(
        experts=experts,
        top_k=top_k,
        expert=Mlp(width=width, gated=True),
        shared=Mlp(width=shared * width, gated=True, bias=mlp_bias) if shared else None,
        groups=groups,
        top_groups=top_groups,
        router_bias=defaults.router_bias,
    )


def _groups(fields: Fields, defaults: _Defaults, names: tuple[str, ...], experts: int, top_k: int) -> tuple[int, int]:
    """Group-limited routing (arXiv:2405.04434, section 2.2.2)."""
    groups = fields.optional_integer("n_group", default=defaults.groups) or 1
    top_groups = fields.optional_integer("topk_group", default=defaults.top_groups) or 1
    rule = f"must divide the number of experts ({experts})"
    fields.require(experts % groups == 0, ("n_group",), rule, nearest_divisor(groups, experts), given=names)
    rule = f"must be at most n_group ({groups})"
    fields.require(top_groups <= groups, ("topk_group",), rule, groups, given=("n_group",))
    reach = top_groups * (experts // groups)
    rule = f"must be at most the {reach} experts of the {top_groups} groups (topk_group) that a token may use"
    given = (*names, "n_group", "topk_group")
    fields.require(top_k <= reach, ("num_experts_per_tok",), rule, reach, given=given)
    return groups, top_groups
