"""Masks: who sees whom in attention, as small functions of numbers, in blocks, and written out.

A rule is a `mask_mod` of FlexAttention: of batch, head, query and key, integers or tensors of them that broadcast, to
bool. Blocks say of squares of tokens whether a rule lets anything through, and whether everything: they are found from
ranges and residues, without the square of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .facts.sparse import Pattern

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Nothing later than itself."""
    return query >= key


def window(size: int) -> Rule:
    """At most `size` tokens back, itself included."""
    return lambda batch, head, query, key: query - key < size


def documents(numbers: Tensor) -> Rule:
    """Tokens of the same document; `numbers` [batch, seq_len]."""
    return lambda batch, head, query, key: numbers[batch, query] == numbers[batch, key]


def sharded(pattern: Pattern) -> Rule:
    """Blocks that a head sees by `pattern`."""

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        shard = (head + pattern.first_head) // pattern.heads_per_key - pattern.dense_heads
        row, column = query // pattern.block, key // pattern.block
        return (shard < 0) | (row - column < pattern.local) | (column % pattern.stride == shard % pattern.stride)

    return rule


def placed(rule: Rule, queries: Tensor, keys: Tensor) -> Rule:
    """A rule of positions in a sequence for tokens that a rank has: `queries` [rows] and `keys` [columns] say where
    each stands, as under context parallelism."""
    return lambda batch, head, query, key: rule(batch, head, queries[query], keys[key])


def both(*rules: Rule) -> Rule:
    """What all of them let through."""

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = rules[0](batch, head, query, key)
        for each in rules[1:]:
            seen = seen & each(batch, head, query, key)
        return seen

    return rule


def written_out(rule: Rule, batch: int, heads: int, queries: Tensor, keys: Tensor) -> Tensor:
    """Bool [batch, heads, rows, columns] of these queries and keys, int64."""
    device = queries.device
    each = torch.arange(batch, device=device).view(-1, 1, 1, 1)
    head = torch.arange(heads, device=device).view(1, -1, 1, 1)
    seen = rule(each, head, queries.view(1, 1, -1, 1), keys.view(1, 1, 1, -1))
    return seen.expand(batch, heads, len(queries), len(keys))


@dataclass(frozen=True, slots=True)
class Blocks:
    """Of squares of `size` tokens: `some` pair is seen (or may be), and `every` pair is; bool [1 or batch, 1 or heads,
    rows, columns]. What is beyond the sequence is never seen."""

    size: int
    some: Tensor
    every: Tensor

    def __and__(self, other: Blocks) -> Blocks:
        return replace(self, some=self.some & other.some, every=self.every & other.every)


def causal_blocks(seq_len: int, size: int, device: torch.device) -> Blocks:
    """Those of `causal`."""
    number = torch.arange(-(-seq_len // size), device=device)
    whole = (number + 1) * size <= seq_len
    row, column = number.view(1, 1, -1, 1), number.view(1, 1, 1, -1)
    return Blocks(size, row >= column, (row > column) & whole.view(1, 1, -1, 1) & whole)


def window_blocks(seq_len: int, size: int, tokens: int, device: torch.device) -> Blocks:
    """Those of `window(tokens)`."""
    number = torch.arange(-(-seq_len // size), device=device)
    apart = number.view(1, 1, -1, 1) - number
    return Blocks(size, (apart - 1) * size + 1 < tokens, (apart + 1) * size - 1 < tokens)


def document_blocks(numbers: Tensor, size: int) -> Blocks:
    """Those of `documents(numbers)`, from the lowest and the highest of each block. Where numbers ascend, no block is
    said to have a pair that has none."""
    missing = -numbers.shape[1] % size
    each = torch.unflatten(F.pad(numbers, (0, missing), mode="replicate"), 1, (-1, size))
    first, last = each.amin(-1), each.amax(-1)
    some = (last[:, :, None] >= first[:, None]) & (first[:, :, None] <= last[:, None])
    every = (first == last)[:, :, None] & (first[:, :, None] == first[:, None]) & (first == last)[:, None]
    return Blocks(size, some.unsqueeze(1), every.unsqueeze(1))


def sharded_blocks(pattern: Pattern, heads: int, seq_len: int, size: int, device: torch.device) -> Blocks:
    """Those of `sharded(pattern)`, whose blocks are a multiple of `size`."""
    if pattern.block % size:
        raise ValueError(f"masks: the pattern has blocks of {pattern.block}, expected a multiple of {size}")
    starts = torch.arange(0, seq_len, size, device=device)
    seen = written_out(sharded(pattern), 1, heads, starts, starts)
    return Blocks(size, seen, seen)
