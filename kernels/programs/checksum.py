"""Triton program that sums tensors up to 64 bits."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def checksum(words, partial, count, width, first, stride, MASK: tl.constexpr, RUN: tl.constexpr, BLOCK: tl.constexpr):
    """Partial sums of BLOCK of `count` words each. Word p is number first + (p // width) stride + p % width of the
    whole tensor; if RUN, number first + p. MASK keeps the bits of a word that is narrower than 64."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    bits = tl.load(words + at, mask=here, other=0).to(tl.int64)
    if MASK != 0:
        bits = bits & MASK
    number = first + at
    if not RUN:  # a division of 64 bits costs more than all the rest
        number = first + (at // width) * stride + at % width
    mixed = bits.to(tl.uint64, bitcast=True) + (number + 1).to(tl.uint64, bitcast=True) * 0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB
    mixed = mixed ^ (mixed >> 31)
    kept = tl.where(here, mixed.to(tl.int64, bitcast=True), 0)
    tl.store(partial + tl.program_id(0), tl.sum(kept, axis=0))
