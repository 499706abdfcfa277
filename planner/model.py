"""Architecture: the shape of a transformer, as far as planning needs it.

Counting rules, each in one place:

- Parameters are counted as the `transformers` implementation of the family creates them.
- FLOPs are *model* FLOPs: a product of [m, k] and [k, n] is 2mnk; the backward pass costs twice the
  forward; attention scores count the causal half (or the sliding window); element-wise work,
  norms and embedding look-ups count nothing. Recomputation is not model FLOPs (it enters HFU, not MFU).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..kernels.facts.sparse import Pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""

    q_rank: int | None  # None: queries are projected directly
    kv_rank: int
    rope_dim: int  # width of the rotary part of a query/key head, shared by all heads of the key
    nope_dim: int  # width of the part without positions


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One attention block: `heads` queries of `head_dim`, `kv_heads` keys and values."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm_parameters: int = 0  # of the query and key norms together
    window: int | None = None  # sliding window in tokens, None: full causal
    latent: Latent | None = None
    capped: bool = False  # scores are bounded by a tanh
    shards: Pattern | None = None  # what heads see where they share the sequence out

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def value_width(self) -> int:
        return self.kv_heads * self.value_dim

    @property
    def output_width(self) -> int:
        """Width of the attention output before its projection."""
        return self.heads * self.value_dim

    def matmul_parameters(self, hidden: int) -> int:
        """Weights that every token is multiplied with."""
        output = self.output_width * hidden
        if self.latent is None:
            return hidden * (self.query_width + self.key_width + self.value_width) + output
        down = hidden * (self.latent.kv_rank + self.latent.rope_dim + (self.latent.q_rank or 0))
        return down + self.up_parameters(hidden) + output

    def up_parameters(self, hidden: int) -> int:
        """Of these, what makes queries, keys and values of latents (of the hidden states queries without one)."""
        if self.latent is None:
            return 0
        key_value = self.latent.kv_rank * self.heads * (self.latent.nope_dim + self.value_dim)
        return (self.latent.q_rank or hidden) * self.query_width + key_value

    def other_parameters(self, hidden: int) -> int:
        """Biases and norms inside attention."""
        if self.latent is not None:
            return self._latent_other_parameters(self.latent, hidden)
        bias = self.query_width + self.key_width + self.value_width if self.qkv_bias else 0
        return bias + (hidden if self.out_bias else 0) + self.qk_norm_parameters

    def _latent_other_parameters(self, latent: Latent, hidden: int) -> int:
        """A norm on each latent; biases on the down-projections and on the output, none on the up-projections."""
        down = (latent.q_rank or 0) + latent.kv_rank
        bias = down + latent.rope_dim if self.qkv_bias else 0
        return down + bias + (hidden if self.out_bias else 0)

    def score_flops(self, seq_len: int) -> float:
        """FLOPs of QK' and PV for one sequence, forward, counting only unmasked pairs."""
        if self.shards is not None:
            return float(self.shards.forward_flops(self.heads, seq_len, self.head_dim, self.value_dim))
        window = min(self.window or seq_len, seq_len)
        pairs = window * (window + 1) / 2 + (seq_len - window) * window
        return 2.0 * pairs * self.heads * (self.head_dim + self.value_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """A feed-forward block: two matrices, or three when gated (SwiGLU, GeGLU)."""

    width: int
    gated: bool
    bias: bool = False

    def matmul_parameters(self, hidden: int) -> int:
        return (3 if self.gated else 2) * hidden * self.width

    def other_parameters(self, hidden: int) -> int:
        return (2 * self.width if self.gated else self.width) + hidden if self.bias else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """Routed experts of which each token visits `top_k`, and shared ones that every token visits."""

    experts: int
    top_k: int
    expert: Mlp
    shared: Mlp | None = None  # all shared experts as one block
    shared_gate: bool = False
    groups: int = 1  # group-limited routing: experts stand in `groups`, a token uses `top_groups`
    top_groups: int = 1
    router_bias: bool = False  # balances experts without a loss (arXiv:2408.15664)

    def router_parameters(self, hidden: int) -> int:
        return hidden * self.experts + (hidden if self.shared_gate else 0)

    def shared_parameters(self, hidden: int) -> int:
        return self.shared.matmul_parameters(hidden) if self.shared else 0

    def matmul_parameters(self, hidden: int) -> int:
        """Of all experts, shared experts and the router."""
        routed = self.experts * self.expert.matmul_parameters(hidden)
        return routed + self.shared_parameters(hidden) + self.router_parameters(hidden)

    def active_matmul_parameters(self, hidden: int) -> int:
        """Of what one token visits."""
        routed = self.top_k * self.expert.matmul_parameters(hidden)
        return routed + self.shared_parameters(hidden) + self.router_parameters(hidden)

    def other_parameters(self, hidden: int) -> int:
        shared = self.shared.other_parameters(hidden) if self.shared else 0
        return self.experts * self.expert.other_parameters(hidden) + shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One transformer layer; equal layers compare equal, so that costs are computed once a kind."""

    hidden: int
    attention: Attention
    ffn: Mlp | Moe
    norms: int = 2  # norms of width `hidden`
    norm_bias: bool = False  # LayerNorm has a bias, RMSNorm has none
    norm_offset: bool = False  # RMSNorm scales by 1 + weight

    @property
    def moe(self) -> Moe | None:
        return self.ffn if isinstance(self.ffn, Moe) else None

    @property
    def norm_parameters(self) -> int:
        return self.norms * self.hidden * (2 if self.norm_bias else 1)

    @property
    def parameters(self) -> int:
        return self.dense_parameters + self.expert_parameters

    @property
    def expert_parameters(self) -> int:
        """Of the routed experts: what expert parallelism shards."""
        if not isinstance(self.ffn, Moe):
            return 0
        expert = self.ffn.expert
        return self.ffn.experts * (expert.matmul_parameters(self.hidden) + expert.other_parameters(self.hidden))

    @property
    def dense_parameters(self) -> int:
        """Everything but the routed experts."""
        ffn, hidden = self.ffn, self.hidden
        total = ffn.matmul_parameters(hidden) + ffn.other_parameters(hidden) - self.expert_parameters
        attention = self.attention
        total += attention.matmul_parameters(hidden) + attention.other_parameters(hidden)
        return total + self.norm_parameters

    @property
    def active_parameters(self) -> int:
        """What one token is computed with: all parameters but the experts it does not visit."""
        if not isinstance(self.ffn, Moe):
            return self.parameters
        return self.dense_parameters + self.expert_parameters * self.ffn.top_k // self.ffn.experts

    def forward_flops(self, seq_len: int) -> float:
        """Model FLOPs of one sequence, forward."""
        ffn = self.ffn
        matmul = self.attention.matmul_parameters(self.hidden)
        matmul += (
            ffn.active_matmul_parameters(self.hidden) if isinstance(ffn, Moe) else ffn.matmul_parameters(self.hidden)
        )
        return 2.0 * matmul * seq_len + self.attention.score_flops(seq_len)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder-only transformer: embedding, layers, final norm, output head."""

    name: str
    family: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied_embeddings: bool
    max_positions: int
    learned_positions: int = 0  # rows of a learned position table, 0: none
    head_bias: bool = False
    final_norm_bias: bool = False
    attended: bool = False  # layers know what their heads see (`attention.attended`)
    further_tokens: int = 0  # predicted after the next one, each by a layer at the end of `layers` and the shared head

    @property
    def embedding_parameters(self) -> int:
        return (self.vocab + self.learned_positions) * self.hidden

    @property
    def head_parameters(self) -> int:
        """Of the final norm and the output projection, without a tied one."""
        norm = self.hidden * (2 if self.final_norm_bias else 1)
        bias = self.vocab if self.head_bias else 0
        return norm + bias + (0 if self.tied_embeddings else self.vocab * self.hidden)

    @cached_property
    def parameters(self) -> int:
        return self.embedding_parameters + sum(layer.parameters for layer in self.layers) + self.head_parameters

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that one token is computed with (equal to `parameters` in a dense model)."""
        return self.embedding_parameters + sum(layer.active_parameters for layer in self.layers) + self.head_parameters

    @cached_property
    def alike(self) -> tuple[int, ...]:
        """For every layer, and for none at the end, the first one from which on the same kinds of layers follow: ranges
        that start at either cost the same."""
        kinds = {layer: place for place, layer in enumerate(dict.fromkeys(self.layers))}
        row, found = [kinds[layer] for layer in self.layers], []
        for start in range(len(row)):
            tail = row[start:]
            found.append(next(first for first in range(start + 1) if row[first : first + len(tail)] == tail))
        return (*found, len(row))

    def head_flops(self, seq_len: int) -> float:
        """Model FLOPs of the output projection for one sequence, forward."""
        return 2.0 * self.hidden * self.vocab * seq_len

    def forward_flops(self, seq_len: int) -> float:
        """Model FLOPs of one sequence, forward."""
        return sum(layer.forward_flops(seq_len) for layer in self.layers) + self.head_flops(seq_len)

    def training_flops(self, seq_len: int) -> float:
        """Model FLOPs of one sequence, forward and backward."""
        return 3.0 * self.forward_flops(seq_len)

    @property
    def is_moe(self) -> bool:
        return any(layer.moe for layer in self.layers)
