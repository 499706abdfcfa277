"""Core: from queries, keys and values to what each head has read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kept
from .attend import Scoring, attend, attend_backward


class Core(nn.Module):
    """Causal attention of one device that has the whole sequence, and `heads` or its share of them.

    `core(query [batch, heads, seq_len, width], key [batch, kv_heads, seq_len, width], value [batch, kv_heads, seq_len,
    value_width], documents [batch, seq_len] | None) -> [batch, heads, seq_len, value_width]`. `heads` is a multiple of
    `kv_heads`; a token sees only tokens of its own document. Context parallelism puts another core in its place.
    """

    def __init__(self, *, scale: float | None = None, window: int | None = None, softcap: float | None = None):
        super().__init__()
        self.scoring = Scoring(scale=scale, window=window, softcap=softcap)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None = None) -> Tensor:
        if self.scoring.softcap is not None or kept.is_kept():
            return _attention(query, key, value, documents, self.scoring)
        mask = visible(self.scoring.window, documents, query)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.scoring.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )


def visible(window: int | None, documents: Tensor | None, query: Tensor) -> Tensor | None:
    """Which tokens see which, bool [1 or batch, 1, seq_len, seq_len]; None: each sees itself and all before it."""
    seq_len = query.shape[2]
    if documents is None and (window is None or window >= seq_len):
        return None
    positions = torch.arange(seq_len, device=query.device)
    distance = positions.unsqueeze(1) - positions
    seen = (distance >= 0) & (distance < (window or seq_len))
    if documents is None:
        return seen[None, None]
    return (seen & (documents.unsqueeze(2) == documents.unsqueeze(1))).unsqueeze(1)


class _Attention(torch.autograd.Function):
    """Keeps the output and the log-sum-exp for its backward, neither scores nor masks."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, scoring: Scoring
    ) -> Tensor:
        mask = visible(scoring.window, documents, query)
        output, lse = kept.recall(lambda: attend(query, key, value, scoring, causal=mask is None, mask=mask))
        ctx.save_for_backward(query, key, value, output, lse, documents)
        ctx.scoring = scoring
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse, documents = ctx.saved_tensors
        mask = visible(ctx.scoring.window, documents, query)
        given = (gradients[0], query, key, value, output, lse, ctx.scoring)
        found = attend_backward(*given, causal=mask is None, mask=mask)
        return (*(each.to(query.dtype) for each in found), None, None)


_attention: Callable[[Tensor, Tensor, Tensor, Tensor | None, Scoring], Tensor] = _Attention.apply
