"""SparseCore: attention of heads that see a shard of the sequence each (S2-Attention, arXiv:2407.17678)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.facts.sparse import Pattern
from ...kernels.flexible import SIZE, Masks, attention, block_mask, runs_flexible
from ...kernels.masks import (
    Blocks,
    Rule,
    both,
    causal,
    causal_blocks,
    document_blocks,
    documents,
    sharded,
    sharded_blocks,
    written_out,
)
from .attend import Scoring

_ROWS = 1024  # queries whose mask is written out at once


class SparseCore(nn.Module):
    """In the place of a `Core` that has the whole sequence; arguments and result are the same. `masks` are shared by
    all layers of a stage."""

    def __init__(self, scoring: Scoring, pattern: Pattern, masks: Masks):
        super().__init__()
        self.scoring, self.pattern, self.masks = scoring, pattern, masks

    def forward(self, query: Tensor, key: Tensor, value: Tensor, numbers: Tensor | None = None) -> Tensor:
        rule = rule_of(self.pattern, numbers)
        scale = self.scoring.factor(query)
        if self.pattern.block % SIZE == 0 and runs_flexible(query):
            heads, seq_len = query.shape[1], query.shape[2]
            place = (self.pattern, heads, seq_len, query.device)
            mask = self.masks.of(place, numbers, lambda: block_mask(rule, self._blocks(query, numbers), seq_len))
            return attention(query, key, value, mask, scale)
        return torch.cat(list(self._read(rule, query, key, value, scale)), dim=2)

    def _blocks(self, query: Tensor, numbers: Tensor | None) -> Blocks:
        heads, seq_len, device = query.shape[1], query.shape[2], query.device
        found = causal_blocks(seq_len, SIZE, device) & sharded_blocks(self.pattern, heads, seq_len, SIZE, device)
        return found if numbers is None else found & document_blocks(numbers, SIZE)

    def _read(self, rule: Rule, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Iterator[Tensor]:
        """With masks written out, some rows at a time."""
        batch, heads, seq_len = query.shape[:3]
        key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
        for start in range(0, seq_len, _ROWS):
            end = min(start + _ROWS, seq_len)
            rows, columns = (torch.arange(first, end, device=query.device) for first in (start, 0))
            mask = written_out(rule, batch, heads, rows, columns)
            own, others = query[:, :, start:end], (key[:, :, :end], value[:, :, :end])
            yield F.scaled_dot_product_attention(own, *others, attn_mask=mask, scale=scale)


def rule_of(pattern: Pattern, numbers: Tensor | None) -> Rule:
    """Not later, of the head's shard, and of the same document."""
    seen = both(causal, sharded(pattern))
    return seen if numbers is None else both(seen, documents(numbers))
