"""Transformer: a whole model, or the consecutive layers of one pipeline stage of it.

Parameters carry the names of the Llama family's Hugging Face implementation, with global layer numbers, in every
family; runtime/names.py says what a family's checkpoint calls them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .attention import Attention
from .dropout import Dropout
from .embedding import Embedding, LearnedPositions
from .head import Head
from .latent import LatentAttention
from .mlp import Mlp
from .moe import Moe
from .norm import Norm
from .positions import Positions
from .rotary import Rotary
from .shape import Shape

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


class Layer(nn.Module):
    """Attention and feed-forward, each with a norm before it (in Gemma 2 also after it) and the residual around it."""

    def __init__(self, shape: Shape, index: int, rotary: Rotary | None, positions: Positions):
        super().__init__()
        self.self_attn = attention(shape, index, rotary)
        self.mlp = feed_forward(shape, index)
        self.input_layernorm = _norm(shape)
        self.post_attention_layernorm = _norm(shape)
        self.pre_feedforward_layernorm = _norm(shape) if shape.sandwich else None
        self.post_feedforward_layernorm = _norm(shape) if shape.sandwich else None
        self.attention_dropout = Dropout(shape.residual_dropout, 2 * index + 1, positions)
        self.feedforward_dropout = Dropout(shape.residual_dropout, 2 * index + 2, positions)

    def forward(
        self, x: Tensor, documents: Tensor | None = None, draws: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        mixed: Tensor = self.attention_dropout(self.self_attn(self.input_layernorm(x), documents, order), draws)
        if self.pre_feedforward_layernorm is None or self.post_feedforward_layernorm is None:
            normed, x = self.post_attention_layernorm(mixed, x)
            written: Tensor = self.mlp(normed)
        else:
            x = x + self.post_attention_layernorm(mixed)
            written = self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        output: Tensor = x + self.feedforward_dropout(written, draws)
        return output


def attention(shape: Shape, index: int, rotary: Rotary | None) -> Attention | LatentAttention:
    """The attention of layer `index`."""
    if shape.latent is None:
        return Attention(shape, index, rotary)
    assert rotary is not None
    return LatentAttention(shape, index, rotary)


def feed_forward(shape: Shape, index: int) -> Mlp | Moe:
    """The feed-forward block of layer `index`."""
    return Moe(shape) if shape.moe is not None and index in shape.moe.layers else Mlp(shape)


def _norm(shape: Shape) -> Norm:
    return Norm(shape.hidden, shape.norm_eps, shape.norm)


class Decoder(nn.Module):
    """Embedding, layers and final norm, as far as this stage has them."""

    def __init__(self, shape: Shape, layers: Iterable[int], *, first: bool, last: bool, dtype: torch.dtype):
        super().__init__()
        self.positions = Positions()
        rotary = None if shape.rope is None else Rotary(shape.rope, self.positions)
        learned = first and shape.learned_positions > 0
        self.embed_tokens = Embedding(shape.vocab, shape.hidden, dtype, shape.embedding_scale) if first else None
        self.embed_positions = (
            LearnedPositions(shape.learned_positions, shape.hidden, self.positions) if learned else None
        )
        self.layers = nn.ModuleDict({str(index): Layer(shape, index, rotary, self.positions) for index in layers})
        self.embedding_dropout = Dropout(shape.embedding_dropout if first else 0.0, 0, self.positions)
        self.norm = _norm(shape) if last else None

    def forward(
        self, x: Tensor, documents: Tensor | None = None, draws: Tensor | None = None, order: Tensor | None = None
    ) -> Tensor:
        if self.embed_tokens is not None:
            x = self.embed_tokens(x)
        if self.embed_positions is not None:
            x = self.embed_positions(x)
        x = self.embedding_dropout(x, draws)
        for layer in self.layers.values():
            x = layer(x, documents, draws, order)
        return x if self.norm is None else self.norm(x)


class Transformer(nn.Module):
    """Token ids (first stage) or hidden states in; hidden states out, or of the last stage logits or the loss."""

    def __init__(self, shape: Shape, layers: Iterable[int], *, first: bool, last: bool, dtype: torch.dtype):
        super().__init__()
        self.model = Decoder(shape, layers, first=first, last=last, dtype=dtype)
        self.lm_head = Head(shape.vocab, shape.hidden, shape.logit_softcap) if last else None
        self.tied = shape.tied_embeddings
        self.tie()

    def tie(self) -> None:
        """Let head and embedding be one parameter, where they are tied and this stage holds both."""
        if self.tied and self.lm_head is not None and self.model.embed_tokens is not None:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        x: Tensor,
        targets: Tensor | None = None,
        documents: Tensor | None = None,
        draws: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Tensor:
        """Of the last stage logits, or, given `targets` [batch, seq_len], the sum of their losses (those below zero
        count nothing). `documents` [batch, seq_len] numbers the documents that tokens belong to, `draws` [batch] says
        what sequences drop out; without it nothing is dropped out. `order` [batch, 2, seq_len] says where tokens stand
        in their sequences, as order.py has it."""
        hidden: Tensor = self.model(x, documents, draws, order)
        if self.lm_head is None:
            return hidden
        output: Tensor = self.lm_head(hidden) if targets is None else self.lm_head(hidden, targets)
        return output
