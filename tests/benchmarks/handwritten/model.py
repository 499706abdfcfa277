"""A Llama in plain PyTorch, as one writes it for oneself: fused attention, rotary positions, SwiGLU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """Sizes of a model and of the sequences that it trains on."""

    hidden: int = 256
    intermediate: int = 768
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 2048
    seq_len: int = 256

    @property
    def parameters(self) -> int:
        head = self.hidden // self.heads
        attention = 2 * self.hidden * self.heads * head + 2 * self.hidden * self.kv_heads * head
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + 2 * self.vocab * self.hidden + self.hidden

    @property
    def flops_per_token(self) -> float:
        """Forward and backward, matmuls and the causal half of attention; the embedding is a look-up."""
        matmuls = self.parameters - self.vocab * self.hidden
        return 6.0 * matmuls + 6.0 * self.layers * self.hidden * self.seq_len


class Attention(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        self.head = size.hidden // size.heads
        self.q = nn.Linear(size.hidden, size.heads * self.head, bias=False)
        self.k = nn.Linear(size.hidden, size.kv_heads * self.head, bias=False)
        self.v = nn.Linear(size.hidden, size.kv_heads * self.head, bias=False)
        self.o = nn.Linear(size.heads * self.head, size.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o(y.transpose(1, 2).flatten(2))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Block(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(size.hidden, eps=1e-5), nn.RMSNorm(size.hidden, eps=1e-5)
        self.attention = Attention(size)
        self.gate = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.up = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.down = nn.Linear(size.intermediate, size.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cos, sin)
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        self.embedding = nn.Embedding(size.vocab, size.hidden)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.hidden, eps=1e-5)
        self.head = nn.Linear(size.hidden, size.vocab, bias=False)
        dim = size.hidden // size.heads
        rates = 10000.0 ** -(torch.arange(0, dim, 2).float() / dim)
        angles = torch.outer(torch.arange(size.seq_len).float(), rates).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean loss of [sequences, seq_len + 1] tokens."""
        x = self.embedding(tokens[:, :-1])
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
