"""Head-wise sharded sparse attention (S2-Attention, arXiv:2407.17678): which blocks a head sees, at what cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

TILE = 128
"""Tokens of a tile, which FlexAttention computes whole or not at all."""

PAIR_FLOPS = 2
"""Of a visible pair and an entry of its head's width, in each of the two products."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Every group of heads that share a key (one head, without groups) has a shard of the keys.

    All see the `local` nearest blocks of `block` tokens, their own included; beyond them group g sees every
    `stride`-th block, those whose number is congruent to g - `dense_heads`. The first `dense_heads` groups see all.
    `first_head` is the number, in the whole model, of the first head here, and `heads_per_key` say which share a key.
    """

    block: int
    local: int
    stride: int
    dense_heads: int = 0
    first_head: int = 0
    heads_per_key: int = 1

    def group(self, head: int) -> int:
        """Of a head, counted here."""
        return (self.first_head + head) // self.heads_per_key

    def sees_block(self, head: int, row: int, column: int) -> bool:
        """Whether a block of queries sees any of a block of keys."""
        if column > row:
            return False
        shard = self.group(head) - self.dense_heads
        return shard < 0 or row - column < self.local or column % self.stride == shard % self.stride

    def complete(self, groups: int) -> bool:
        """Whether each block that is not later is seen by some of so many groups of heads: the shards then have all
        residues (the paper's condition for stacked layers to pass on what any token knows)."""
        return self.dense_heads > 0 or groups >= self.stride

    def pairs(self, head: int, seq_len: int) -> int:
        """Visible pairs of query and key."""
        return sum(self._pairs_of_rows(head, seq_len))

    def _pairs_of_rows(self, head: int, seq_len: int) -> Iterator[int]:
        """By block of queries: whole blocks of keys, and the half of its own that is not later."""
        for row in range(-(-seq_len // self.block)):
            rows = min(self.block, seq_len - row * self.block)
            yield self._blocks_before(head, row) * self.block * rows + rows * (rows + 1) // 2

    def _blocks_before(self, head: int, row: int) -> int:
        """Blocks before its own that a block of queries sees."""
        shard, near = self.group(head) - self.dense_heads, min(self.local - 1, row)
        if shard < 0:
            return row
        far, residue = row - near, shard % self.stride  # blocks beyond the nearest, and which of them
        return near + max(0, -(-(far - residue) // self.stride))

    def forward_flops(self, heads: int, seq_len: int, width: int, value_width: int) -> int:
        """Of both products of `heads` heads, one sequence."""
        return PAIR_FLOPS * (width + value_width) * _all_pairs(self, heads, seq_len)

    def computed_flops(self, heads: int, ranks: int, seq_len: int, width: int, value_width: int) -> int:
        """The same of the busiest of `ranks` that share the heads out, with the halves of tiles that nobody sees but
        that are computed."""
        own, tiles = heads // ranks, -(-seq_len // TILE)
        firsts = (replace(self, first_head=self.first_head + rank * own) for rank in range(ranks))
        busiest = max(_all_pairs(each, own, seq_len) for each in firsts)
        return PAIR_FLOPS * (width + value_width) * (busiest + own * tiles * TILE * (TILE - 1) // 2)


@lru_cache(maxsize=256)
def _all_pairs(pattern: Pattern, heads: int, seq_len: int) -> int:
    return sum(pattern.pairs(head, seq_len) for head in range(heads))


def dense_flops(heads: int, seq_len: int, width: int, value_width: int) -> int:
    """The same of causal attention."""
    return PAIR_FLOPS * (width + value_width) * heads * (seq_len * (seq_len + 1) // 2)
