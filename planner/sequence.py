"""How many tokens of a sequence each rank of a context-parallel group has."""

from __future__ import annotations

import math
from functools import lru_cache


def local_tokens(seq_len: int, cp: int, multiple: int = 1) -> int:
    """Tokens of one of `cp` ranks: two equal chunks, padded at the end of the sequence where it does not divide; a
    multiple of `multiple`, by which sequence parallelism divides them further. Alone, a rank has the sequence."""
    if cp == 1:
        return seq_len
    unit = math.lcm(2, multiple)
    return -(-seq_len // (cp * unit)) * unit


def reach(cp: int, local: int, window: int | None) -> int:
    """How many chunks back a query may see, of which each of `cp` ranks has two of half its `local` tokens: all, or as
    far as a sliding window goes."""
    chunks = 2 * cp - 1
    if window is None or window >= cp * local:
        return chunks
    return 0 if window == 1 else min(chunks, (window - 2) // (local // 2) + 1)


@lru_cache(maxsize=1024)
def halves(cp: int, reach: int) -> tuple[tuple[int, ...], ...]:
    """By rank of queries and rank of keys: of the two chunks of queries, how many see something. Rank r has the chunks
    r and 2 cp - 1 - r of the sequence, so that all have as many visible pairs (runtime/parallel/context/zigzag.py)."""
    chunks = [(rank, 2 * cp - 1 - rank) for rank in range(cp)]
    return tuple(
        tuple(sum(any(0 <= row - column <= reach for column in keys) for row in queries) for keys in chunks)
        for queries in chunks
    )


def hops(cp: int, reach: int) -> int:
    """Steps of a ring: distances, beside none, at which some rank sees something of another."""
    seen = halves(cp, reach)
    return sum(any(seen[rank][(rank - shift) % cp] for rank in range(cp)) for shift in range(1, cp))


def copies(heads: int, kv_heads: int, ranks: int) -> int:
    """How often each head of keys is sent where `ranks` share heads out, so that every rank gets the same number and
    none that it does not read."""
    grouped = heads // kv_heads
    return next((n for n in range(1, grouped + 1) if grouped % n == 0 and kv_heads * n % ranks == 0), grouped)
