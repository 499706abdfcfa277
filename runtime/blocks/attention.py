"""Attention: causal self-attention with grouped queries and rotary positions."""

from __future__ import annotations

from torch import Tensor, nn

from ...kernels.rotary import rotate
from .core import Core
from .linear import Linear
from .norm import RmsNorm
from .rotary import Rotary
from .shape import Shape


class Attention(nn.Module):
    """[batch, seq_len, hidden] to the same. The number of heads is read off the projections: they may be shards."""

    def __init__(self, shape: Shape, rotary: Rotary):
        super().__init__()
        self.head_dim = shape.head_dim
        self.rotary = rotary
        self.core: nn.Module = Core()
        query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = Linear(shape.hidden, query, bias=shape.qkv_bias)
        self.k_proj = Linear(shape.hidden, key, bias=shape.qkv_bias)
        self.v_proj = Linear(shape.hidden, key, bias=shape.qkv_bias)
        self.o_proj = Linear(query, shape.hidden, bias=shape.out_bias)
        self.q_norm = RmsNorm(shape.head_dim, shape.norm_eps) if shape.qk_norm else None
        self.k_norm = RmsNorm(shape.head_dim, shape.norm_eps) if shape.qk_norm else None

    def forward(self, x: Tensor, documents: Tensor | None = None) -> Tensor:
        cos, sin = self.rotary.tables(x.shape[1], x.device, x.dtype)
        query, key, value = (self._heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed: Tensor = self.core(query, key, value, documents)
        output: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, x: Tensor) -> Tensor:
        """[batch, seq_len, heads x head_dim] to [batch, heads, seq_len, head_dim]."""
        return x.view(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)
