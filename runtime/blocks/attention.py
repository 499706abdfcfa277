"""Attention: causal self-attention with grouped queries."""

from __future__ import annotations

from torch import Tensor, nn

from .core import Core
from .linear import Linear
from .norm import Norm
from .order import to_sequence
from .rotary import Rotary
from .shape import Shape


class Attention(nn.Module):
    """[batch, seq_len, hidden] to the same, of layer `index`; tokens may stand in another `order` (order.py).

    The number of heads is read off the projections: they may be shards.
    """

    def __init__(self, shape: Shape, index: int, rotary: Rotary | None):
        super().__init__()
        width, hidden = shape.head_dim, shape.hidden
        self.head_dim, self.clip, self.whole_norm = width, shape.clip_qkv, shape.qk_norm == "whole"
        self.rotary, self.to_sequence = rotary, to_sequence
        self.core: nn.Module = Core(scale=shape.scale(index), window=shape.windows[index], softcap=shape.score_softcap)
        self.q_proj = Linear(hidden, shape.heads * width, bias=shape.qkv_bias, unit=width)
        self.k_proj = Linear(hidden, shape.kv_heads * width, bias=shape.qkv_bias, unit=width)
        self.v_proj = Linear(hidden, shape.kv_heads * width, bias=shape.qkv_bias, unit=width)
        self.o_proj = Linear(shape.heads * width, hidden, bias=shape.out_bias)
        self.q_norm = _head_norm(shape, shape.heads)
        self.k_norm = _head_norm(shape, shape.kv_heads)

    def forward(self, x: Tensor, documents: Tensor | None = None, order: Tensor | None = None) -> Tensor:
        x = x if order is None else self.to_sequence(x, order)
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.whole_norm:
            query, key = self._norm(query, key)
        if self.clip is not None:
            query, key, value = (each.clamp(-self.clip, self.clip) for each in (query, key, value))
        query, key, value = (self._heads(each) for each in (query, key, value))
        if not self.whole_norm:
            query, key = self._norm(query, key)
        if self.rotary is not None:
            query, key = self.rotary.turn(query, key)
        mixed: Tensor = self.core(query, key, value, documents)
        written = mixed.transpose(1, 2).flatten(2)
        output: Tensor = self.o_proj(written) if order is None else self.o_proj(written, order)
        return output

    def _heads(self, x: Tensor) -> Tensor:
        """[batch, seq_len, heads x head_dim] to [batch, heads, seq_len, head_dim]."""
        return x.view(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)

    def _norm(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        if self.q_norm is None or self.k_norm is None:
            return query, key
        return self.q_norm(query), self.k_norm(key)


def _head_norm(shape: Shape, heads: int) -> Norm | None:
    """Of each head by itself, or of all of them as one vector."""
    if shape.qk_norm == "none":
        return None
    if shape.qk_norm == "head":
        return Norm(shape.head_dim, shape.norm_eps)
    return Norm(heads * shape.head_dim, shape.norm_eps, unit=shape.head_dim)
