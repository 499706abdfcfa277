"""LatentAttention: queries and keys are projected down to a latent and up to heads (DeepSeek-V2, arXiv:2405.04434)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...planner.model import Latent
from .core import Core
from .linear import Linear
from .norm import Norm
from .order import to_sequence
from .rotary import Rotary
from .shape import Shape

_NORM_EPS = 1e-6  # of the latents, whatever the config says: as DeepSeek's and transformers' code have it


class LatentAttention(nn.Module):
    """[batch, seq_len, hidden] to the same, of layer `index`; every head has its own key and value.

    Positions stand in a part of their own: `rope_dim` entries of each query head, and of one key for all heads.
    The number of heads is read off the up-projections: they may be shards. Tokens may stand in another `order`
    (order.py).
    """

    def __init__(self, shape: Shape, index: int, rotary: Rotary):
        super().__init__()
        assert shape.latent is not None
        latent, hidden, bias = shape.latent, shape.hidden, shape.qkv_bias
        self.latent, self.head_dim, self.value_dim, self.rotary = latent, shape.head_dim, shape.value_dim, rotary
        self.to_sequence = to_sequence
        self.core: nn.Module = Core(scale=shape.scale(index), window=shape.windows[index], softcap=shape.score_softcap)
        self._add_query(hidden, shape.heads, latent, bias)
        self.kv_a_proj_with_mqa = Linear(hidden, latent.kv_rank + latent.rope_dim, bias=bias, unit=None)
        self.kv_a_layernorm = Norm(latent.kv_rank, _NORM_EPS)
        both = latent.nope_dim + shape.value_dim
        self.kv_b_proj = Linear(latent.kv_rank, shape.heads * both, bias=False, unit=both)
        self.o_proj = Linear(shape.heads * shape.value_dim, hidden, bias=shape.out_bias)

    def _add_query(self, hidden: int, heads: int, latent: Latent, bias: bool) -> None:
        """Queries come straight from the hidden states, or through a latent of their own."""
        width, rank = heads * self.head_dim, latent.q_rank
        self.q_proj = Linear(hidden, width, bias=False, unit=self.head_dim) if rank is None else None
        self.q_a_proj = None if rank is None else Linear(hidden, rank, bias=bias, unit=None)
        self.q_a_layernorm = None if rank is None else Norm(rank, _NORM_EPS)
        self.q_b_proj = None if rank is None else Linear(rank, width, bias=False, unit=self.head_dim)

    def forward(self, x: Tensor, documents: Tensor | None = None, order: Tensor | None = None) -> Tensor:
        x = x if order is None else self.to_sequence(x, order)
        key, value = self._key_value(*self._compressed(x))
        mixed: Tensor = self.core(self._query(self._query_input(x)), key, value, documents)
        written = mixed.transpose(1, 2).flatten(2)
        output: Tensor = self.o_proj(written) if order is None else self.o_proj(written, order)
        return output

    def _query_input(self, x: Tensor) -> Tensor:
        """What queries are projected from: their latent, or the hidden states."""
        if self.q_a_proj is None:
            return x
        assert self.q_a_layernorm is not None
        latent: Tensor = self.q_a_layernorm(self.q_a_proj(x))
        return latent

    def _query(self, x: Tensor) -> Tensor:
        """[batch, heads, seq_len, nope_dim + rope_dim]."""
        up = self.q_proj if self.q_b_proj is None else self.q_b_proj
        assert up is not None
        whole = up(x)
        heads = whole.view(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)
        plain, placed = heads.split((self.latent.nope_dim, self.latent.rope_dim), dim=-1)
        return torch.cat((plain, self.rotary.turn(placed)[0]), dim=-1)

    def _compressed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The latent of keys and values [batch, seq_len, kv_rank], and the key of all heads [batch, seq_len,
        rope_dim]."""
        compressed, shared = self.kv_a_proj_with_mqa(x).split((self.latent.kv_rank, self.latent.rope_dim), dim=-1)
        return self.kv_a_layernorm(compressed), shared

    def _key_value(self, compressed: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, heads, seq_len, nope_dim + rope_dim], [batch, heads, seq_len, value_dim]."""
        latent = self.latent
        placed, _ = self.rotary.turn(shared.unsqueeze(1))
        both = self.kv_b_proj(compressed)
        heads = both.view(both.shape[0], both.shape[1], -1, latent.nope_dim + self.value_dim).transpose(1, 2)
        plain, value = heads.split((latent.nope_dim, self.value_dim), dim=-1)
        return torch.cat((plain, placed.expand(-1, heads.shape[1], -1, -1)), dim=-1), value
