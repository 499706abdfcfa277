"""The architecture that a published row describes by its sizes."""

from __future__ import annotations

import re
from dataclasses import replace

from ..model import Architecture, Attention, Latent, Layer, Mlp, Moe
from .row import Row

_LATENT = {"kv_rank": 512, "rope_dim": 64, "nope_dim": 128}
"""Latent attention of every published model that has it so far: DeepSeek-V2 and V3 (arXiv:2405.04434, 2412.19437),
Moonlight and Kimi-K2; they differ only in whether queries have a latent too (rank 1536)."""

_VALUE_DIM = 128  # of latent attention
_HEAD_DIM = 128  # assumed where a row does not state the heads
_VOCAB = 51200  # GPT-2's vocabulary as Megatron pads it, assumed where none is stated


class NotModelledError(ValueError):
    """A run that holds something the cost model does not express; the message names it."""


def row_architecture(row: Row, assumptions: list[str]) -> Architecture:
    """The transformer of a row. Raises NotModelledError; appends what had to be assumed."""
    if not (row.layers and row.hidden and (row.ffn_hidden or row.expert_ffn)):
        raise NotModelledError("the sizes of the model are not stated")
    if "mamba" in row.attn:
        raise NotModelledError("state-space (Mamba) layers")
    layers = _layers(row, assumptions)
    gated = row.mlp == "swiglu"
    if row.vocab is None:
        assumptions.append(f"vocabulary of {_VOCAB}")
    return Architecture(
        name=row.model or row.row_id,
        family="published",
        hidden=row.hidden,
        vocab=row.vocab or _VOCAB,
        layers=layers,
        tied_embeddings=bool(row.tied_emb),
        max_positions=row.seq_len or 0,
        learned_positions=0 if gated else row.seq_len or 0,
        final_norm_bias=not gated,
        further_tokens=further_tokens(row),
    )


def _layers(row: Row, assumptions: list[str]) -> tuple[Layer, ...]:
    assert row.layers
    assert row.hidden
    dense, gated = _mlp(row, row.ffn_hidden or 0), row.mlp == "swiglu"
    further = further_tokens(row)
    routed = _moe(row)
    first_dense = row.layers if routed is None else row.dense_layers or 0
    attention = _attention(row, assumptions)
    windowed = re.search(r"sliding(\d+) every other", row.attn)
    local = _attention(row, assumptions, int(windowed[1])) if windowed else attention
    return tuple(
        Layer(
            hidden=row.hidden,
            attention=local if index % 2 == 0 else attention,
            ffn=dense if index < first_dense or routed is None else routed,
            norm_bias=not gated,
        )
        for index in range(row.layers + further)
    )


def further_tokens(row: Row) -> int:
    """Tokens beyond the next one that are predicted: one in DeepSeek-V3's recipes unless a row says it is without MTP
    (multi-token prediction)."""
    trains = re.search(r"bridge|nemo", row.framework.lower()) and row.model.startswith("deepseek-v3")
    return int(bool(trains) and "w/o mtp" not in row.notes.lower())


def _attention(row: Row, assumptions: list[str], window: int | None = None) -> Attention:
    assert row.hidden
    if row.heads is None and (note := f"heads of {_HEAD_DIM}") not in assumptions:
        assumptions.append(note)
    heads = row.heads or row.hidden // _HEAD_DIM
    if row.attn.startswith("mla"):
        latent = Latent(q_rank=None if row.attn == "mla_noqlora" else 1536, **_LATENT)
        width = latent.rope_dim + latent.nope_dim
        return Attention(heads=heads, kv_heads=heads, head_dim=width, value_dim=_VALUE_DIM, latent=latent)
    head_dim = row.head_dim or row.hidden // heads
    bias = row.mlp != "swiglu"
    return Attention(
        heads=heads,
        kv_heads=row.kv_heads or heads,
        head_dim=head_dim,
        value_dim=head_dim,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm_parameters=2 * head_dim if row.model.startswith("qwen3") else 0,
        window=window,
    )


def _mlp(row: Row, width: int) -> Mlp:
    gated = row.mlp == "swiglu"
    return Mlp(width=width, gated=gated, bias=not gated)


def _moe(row: Row) -> Moe | None:
    if not row.experts:
        return None
    biased = row.model.startswith("gpt-oss")
    expert = Mlp(width=row.expert_ffn or row.ffn_hidden or 0, gated=row.mlp == "swiglu", bias=biased)
    shared = Mlp(width=row.shared_ffn, gated=row.mlp == "swiglu") if row.shared_ffn else None
    routed = Moe(experts=row.experts, top_k=row.top_k or 1, expert=expert, shared=shared)
    if not row.model.startswith("deepseek-v3"):
        return routed
    return replace(routed, groups=8, top_groups=4)  # group-limited routing: arXiv:2412.19437, section 4.2
