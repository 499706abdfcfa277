"""Core: what attention computes between its projections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Core(nn.Module):
    """Causal attention without parameters. Context parallelism replaces it: nothing else looks at other tokens."""

    def __init__(self, *, scale: float | None = None, window: int | None = None, softcap: float | None = None):
        """`scale` of the scores (1 / sqrt(head_dim) if None), sliding `window` in tokens, `softcap` of the scores."""
        super().__init__()
        self.scale, self.window, self.softcap = scale, window, softcap

    def forward(self, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None = None) -> Tensor:
        """query [batch, heads, seq_len, head_dim], key and value [batch, kv_heads, seq_len, ...] to [batch, heads,
        seq_len, value_dim]. Tokens of different `documents` [batch, seq_len] do not see each other."""
        mask = _visible(self.window, documents, query)
        if self.softcap is not None:
            return self._capped(query, key, value, mask)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None,
            enable_gqa=query.shape[1] != key.shape[1], scale=self.scale,
        )  # fmt: skip

    def _capped(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        assert self.softcap is not None
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.mT * (self.scale or query.shape[-1] ** -0.5)
        scores = (scores / self.softcap).tanh() * self.softcap
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril() if mask is None else mask
        return scores.masked_fill(~seen, float("-inf")).float().softmax(-1).to(query.dtype) @ value


def _visible(window: int | None, documents: Tensor | None, query: Tensor) -> Tensor | None:
    """Which tokens see which, bool [batch or 1, 1, seq_len, seq_len]; None: each sees itself and all before it."""
    length = query.shape[2]
    if documents is None and (window is None or window >= length):
        return None
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - (window or length))
    if documents is None:
        return seen[None, None]
    return (seen & (documents.unsqueeze(-1) == documents.unsqueeze(-2))).unsqueeze(1)
