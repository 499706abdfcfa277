"""Gemma 2: four norms a layer, every other layer with a sliding window, tied (transformers' Gemma2ForCausalLM)."""

from __future__ import annotations

from dataclasses import replace

from ..model import Architecture, Layer
from .common import (
    decoder,
    gated_mlp,
    grouped_attention,
    hidden_size,
    layer_count,
    sliding_window,
    typed_windows,
    windowed,
)
from .fields import Fields


def read(fields: Fields) -> Architecture:
    hidden, count = hidden_size(fields, 2304), layer_count(fields, 26)
    bias = fields.flag("attention_bias", default=False)
    attention = grouped_attention(
        fields, hidden, heads=8, kv_heads=4, head_dim=256, qkv_bias=bias, out_bias=bias, always_even_split=True
    )
    attention = replace(attention, capped=fields.has("attn_logit_softcapping", default=50.0))
    windows = typed_windows(fields, count, sliding_window(fields, 4096), [i % 2 == 0 for i in range(count)])
    mlp = gated_mlp(fields, 9216)
    layers = [
        Layer(hidden=hidden, attention=block, ffn=mlp, norms=4, norm_offset=True)
        for block in windowed(attention, windows)
    ]
    return decoder(fields, layers, vocab=256000, positions=8192, tied=True)
