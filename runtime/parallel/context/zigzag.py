"""Zigzag: which tokens of a sequence each rank of a context-parallel group has. Decided here and nowhere else.

The sequence is cut into twice as many chunks as there are ranks, and rank r has chunk r and the r-th from the end
(zigzag): under a causal mask all ranks then have the same number of visible pairs (Striped Attention's argument,
arXiv:2311.09431, with whole chunks instead of stripes, as the Llama 3 report has it, arXiv:2407.21783, section 3.3.2).
A sequence that does not divide is padded at its end: no real query sees what comes after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ....planner.sequence import local_tokens

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Zigzag:
    """A sequence of `seq_len` tokens over `size` ranks; each has a multiple of `multiple`, so that sequence parallelism
    can divide it further."""

    seq_len: int
    size: int
    multiple: int = 1

    @property
    def local(self) -> int:
        """Tokens of each rank, padding included."""
        return local_tokens(self.seq_len, self.size, self.multiple)

    @property
    def padded(self) -> int:
        return self.local * self.size

    def order(self, device: torch.device = CPU) -> Tensor:
        """Global positions [padded] of all ranks' tokens, rank after rank; not to be written to."""
        return order_on(self.local, self.size, device)

    def positions(self, rank: int, device: torch.device = CPU) -> Tensor:
        """Global positions [local] of one rank's tokens. Padding repeats the last one: tables end there."""
        return self.order(device).view(self.size, -1)[rank].clamp(max=self.seq_len - 1)

    def share(self, rows: Tensor, rank: int, padding: int) -> Tensor:
        """What one rank has of [batch, seq_len]: [batch, local]."""
        return self.spread(rows, padding).chunk(self.size, dim=1)[rank].contiguous()

    def spread(self, rows: Tensor, padding: int, parts: int | None = None) -> Tensor:
        """[batch, seq_len] as all ranks have it, rank after rank: [batch, padded]. Fewer `parts`: group after group of
        neighbours, each with its tokens as one rank has them."""
        parts = parts or self.size
        whole = F.pad(rows, (0, self.padded - self.seq_len), value=padding)
        return whole.index_select(1, order_on(self.padded // parts, parts, rows.device))


def order(local: int, size: int) -> Tensor:
    """Global positions [size x local] of the tokens of `size` ranks with `local` tokens each, rank after rank."""
    if size == 1:
        return torch.arange(local)
    chunks = torch.arange(local * size).view(2 * size, -1)
    return torch.stack([chunks[:size], chunks[size:].flip(0)], dim=1).flatten()


@lru_cache(maxsize=16)
def order_on(local: int, size: int, device: torch.device) -> Tensor:
    """`order`, copied to a device once: whoever asks for it in every layer must not wait for the host."""
    return order(local, size).to(device)


def chunk_of(rank: int, half: int, size: int) -> int:
    """Index, along the sequence, of one of the two chunks of a rank."""
    return 2 * size - 1 - rank if half else rank


def joined(parts: Tensor, dim: int) -> Tensor:
    """Consecutive ranks' tokens [ranks, ...] with their local sequence at `dim` of the rest, in the order of their
    positions: as one rank of a smaller group has them."""
    first, second = parts.chunk(2, dim=dim + 1)
    return torch.cat([*first.unbind(), *second.flip(0).unbind()], dim=dim)


def parted(whole: Tensor, ranks: int, dim: int) -> Tensor:
    """The opposite of `joined`."""
    pieces = whole.chunk(2 * ranks, dim=dim)
    return torch.stack([torch.cat([pieces[rank], pieces[-1 - rank]], dim=dim) for rank in range(ranks)])
