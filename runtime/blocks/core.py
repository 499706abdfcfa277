"""Core: what attention computes between its projections."""

from __future__ import annotations

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
        grouped = query.shape[1] != key.shape[1]
        if documents is None:
            return F.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=grouped, scale=self.scale
            )
        together = documents.unsqueeze(-1) == documents.unsqueeze(-2)
        mask = together.tril().unsqueeze(1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped, scale=self.scale)
