"""Core: from queries, keys and values to what each head has read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import masks
from ...kernels.flexible import SIZE, Masks, block_mask, runs_flexible
from ...kernels.flexible import attention as flexible
from ...kernels.masks import Blocks, Rule
from . import kept
from .attend import Scoring, attend, attend_backward

_MASKS = Masks()


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
        if documents is not None and self.scoring.softcap is None and not kept_apart() and runs_flexible(query):
            return self._read_blocks(query, key, value, documents)
        read = [self._read(stripe, query, key, value, documents) for stripe in _stripes(query.shape[2], self.scoring)]
        return read[0] if len(read) == 1 else torch.cat(read, dim=2)

    def _read_blocks(self, query: Tensor, key: Tensor, value: Tensor, documents: Tensor) -> Tensor:
        """All of it at once, without the blocks that documents and windows leave nothing of."""
        seq_len, window = query.shape[2], self.scoring.window
        place = (window, seq_len, query.device)
        mask = _MASKS.of(place, documents, lambda: block_mask(*seen_of(documents, window, SIZE), seq_len))
        return flexible(query, key, value, mask, self.scoring.factor(query))

    def _read(self, stripe: Stripe, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None) -> Tensor:
        rows, columns = slice(stripe.start, stripe.end), slice(stripe.first, stripe.end)
        query, key, value = query[:, :, rows], key[:, :, columns], value[:, :, columns]
        if self.scoring.softcap is not None or kept_apart():
            return _attention(query, key, value, documents, stripe, self.scoring)
        mask = stripe.mask(documents, query.device)
        if mask is not None and query.device.type != "cpu":  # no fused kernel there has masks and groups of heads both
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.scoring.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )


def kept_apart() -> bool:
    """Whether a recomputed layer keeps what attention has found."""
    return not torch.compiler.is_compiling() and kept.is_kept()


def seen_of(documents: Tensor, window: int | None, size: int) -> tuple[Rule, Blocks]:
    """Which tokens see each other, and which blocks of `size` of them."""
    rule, seq_len = masks.both(masks.causal, masks.documents(documents)), documents.shape[1]
    blocks = masks.causal_blocks(seq_len, size, documents.device) & masks.document_blocks(documents, size)
    if window is None:
        return rule, blocks
    return masks.both(rule, masks.window(window)), blocks & masks.window_blocks(seq_len, size, window, documents.device)


@dataclass(frozen=True, slots=True)
class Stripe:
    """Queries `start` to `end` of a sequence, which see keys from `first` on, each at most `window` of them."""

    start: int
    end: int
    first: int
    window: int

    def mask(self, documents: Tensor | None, device: torch.device) -> Tensor | None:
        """Which see which, bool [1 or batch, 1, rows, columns]; None: each sees itself and all before it."""
        rows, columns = (torch.arange(first, self.end, device=device) for first in (self.start, self.first))
        if documents is None and self.start == self.first and self.end - self.start <= self.window:
            return None
        distance = rows.unsqueeze(1) - columns
        seen = (distance >= 0) & (distance < self.window)
        if documents is None:
            return seen[None, None]
        own, others = documents[:, self.start : self.end], documents[:, self.first : self.end]
        return (seen & (own.unsqueeze(2) == others.unsqueeze(1))).unsqueeze(1)


def _stripes(seq_len: int, scoring: Scoring) -> Iterator[Stripe]:
    """The whole sequence at once, or, where a window is much shorter, windows one after another: neither masks nor
    products grow with the square of the sequence."""
    window = scoring.window or seq_len
    step = window if seq_len >= 2 * window else seq_len
    for start in range(0, seq_len, step):
        yield Stripe(start, min(start + step, seq_len), max(0, start - window + 1), window)


class _Attention(torch.autograd.Function):
    """Keeps the output and the log-sum-exp for its backward, neither scores nor masks."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        documents: Tensor | None,
        stripe: Stripe,
        scoring: Scoring,
    ) -> Tensor:
        mask = stripe.mask(documents, query.device)
        output, lse = kept.recall(lambda: attend(query, key, value, scoring, causal=mask is None, mask=mask))
        ctx.save_for_backward(query, key, value, output, lse, documents)
        ctx.stripe, ctx.scoring = stripe, scoring
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse, documents = ctx.saved_tensors
        mask = ctx.stripe.mask(documents, query.device)
        given = (gradients[0], query, key, value, output, lse, ctx.scoring)
        found = attend_backward(*given, causal=mask is None, mask=mask)
        return (*(each.to(query.dtype) for each in found), None, None, None)


_attention: Callable[[Tensor, Tensor, Tensor, Tensor | None, Stripe, Scoring], Tensor] = _Attention.apply
