"""The core of attention, from queries, keys and values to their weighted sum: fused, or as separate kernels."""

from __future__ import annotations

import math
from dataclasses import replace

from ...kernels.facts.sparse import Pattern
from ..model import Attention
from .kernels import Matmul, elementwise_s, matmul_s
from .rates import Rates
from .sharding import Sharding

FUSED_BACKWARD = 2.5
"""Five products where the forward has two (FlashAttention-2, arXiv:2307.08691, section 3.1)."""

FLEXIBLE = (0.90, 0.85)
"""Of the rate of fused attention that FlexAttention reaches, forward and backward, over the tiles that it computes
(pytorch.org/blog/flexattention, beside FlashAttention-2). Published, not measured by us."""

SOFTMAX_BYTES = (4, 6)
"""Per score: forward reads it and writes its probability (scale, mask and softmax in one kernel, as in Megatron-LM);
backward reads the probability and its gradient and writes one."""

DROPOUT_BYTES = (5, 5)
"""Per score: reads and writes it in 16 bits, and the mask of one byte."""


def core_s(attention: Attention, sharding: Sharding, seq_len: int, rates: Rates) -> tuple[float, float]:
    """Seconds forward and backward on one rank; heads are split over tp, the sequence over cp."""
    if attention.shards is not None:
        return _sharded_s(attention, attention.shards, sharding, seq_len, rates)
    if rates.scores:
        return _separate_s(attention, sharding, seq_len, rates)
    measured = _measured_s(attention, sharding, seq_len, rates)
    if measured is not None:
        return measured
    flops = attention.score_flops(seq_len) * sharding.microbatch / (sharding.cp * sharding.tp)
    forward = flops / (rates.attention_flops * width_share(attention.head_dim, rates))
    return forward + rates.launch_s, FUSED_BACKWARD * forward + rates.launch_s


def _sharded_s(
    attention: Attention, shards: Pattern, sharding: Sharding, seq_len: int, rates: Rates
) -> tuple[float, float]:
    """Of heads that see a shard of the sequence each: as dense ones over the tiles that are computed."""
    dense = replace(attention, shards=None)
    forward, backward = core_s(dense, sharding, seq_len, rates)
    computed = shards.computed_flops(attention.heads, sharding.tp, seq_len, attention.head_dim, attention.value_dim)
    share = computed * sharding.tp / dense.score_flops(seq_len)
    return share * forward / FLEXIBLE[0], share * backward / FLEXIBLE[1]


def _measured_s(attention: Attention, sharding: Sharding, seq_len: int, rates: Rates) -> tuple[float, float] | None:
    """Seconds where causal attention was measured at such sizes. With context parallelism a rank has a part of the
    pairs of a whole sequence; a window, and values of another width, are priced by their share of the pairs' FLOPs."""
    times = (rates.sixteen_bit or rates).times
    if times is None:
        return None
    heads = sharding.microbatch * attention.heads / sharding.tp
    found = times.seconds("attention", heads, seq_len, attention.head_dim)
    if found is None:
        return None
    whole = 2.0 * seq_len * (seq_len + 1) * attention.head_dim * attention.heads
    share = attention.score_flops(seq_len) / whole / sharding.cp / rates.attention_share
    return share * found[0], share * found[1]


def width_share(head_dim: float, rates: Rates) -> float:
    """Rate of fused attention at a head's width over that at 128: narrower heads take as many exponentials for fewer
    FLOPs. A power of the width, through the rates at 64 and 128."""
    return min(1.0, math.pow(head_dim / 128, -math.log2(rates.narrow_heads)))


def _separate_s(attention: Attention, sharding: Sharding, seq_len: int, rates: Rates) -> tuple[float, float]:
    """Two batched products forward and four backward over all pairs, masked ones too, with softmax and dropout
    between them (Korthikanti et al. 2022, arXiv:2205.05198, figure 3)."""
    heads = sharding.microbatch * attention.heads / sharding.tp
    rows = seq_len / sharding.cp
    products = [
        Matmul(rows, seq_len, attention.head_dim, heads, True),
        Matmul(rows, attention.value_dim, seq_len, heads, True),
    ]
    matmuls = sum(matmul_s(rates.sixteen_bit or rates, each) for each in products)
    scores = heads * rows * seq_len * rates.element_bytes / 2
    dropout = DROPOUT_BYTES if rates.dropout else (0, 0)
    kernels = 2 if rates.dropout else 1
    forward, backward = (
        elementwise_s(rates, (softmax + dropped) * scores, kernels)
        for softmax, dropped in zip(SOFTMAX_BYTES, dropout, strict=True)
    )
    return matmuls + forward, 2 * matmuls + backward
