"""How many tokens of a sequence each rank of a context-parallel group has."""

from __future__ import annotations

import math


def local_tokens(seq_len: int, cp: int, multiple: int = 1) -> int:
    """Tokens of one of `cp` ranks: two equal chunks, padded at the end of the sequence where it does not divide; a
    multiple of `multiple`, by which sequence parallelism divides them further. Alone, a rank has the sequence."""
    if cp == 1:
        return seq_len
    unit = math.lcm(2, multiple)
    return -(-seq_len // (cp * unit)) * unit
