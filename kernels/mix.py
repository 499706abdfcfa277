"""Mix: the hash that random numbers of a place are made with, in tensors; the same everywhere and in every order."""

from __future__ import annotations

from torch import Tensor

MASK = 0xFFFFFFFF


def mix(x: Tensor) -> Tensor:
    """lowbias32 (Wellons, hash-prospector): a permutation of 32-bit numbers, held in int64, in which every bit moves
    about half of the others."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & MASK
    return x ^ (x >> 16)


def mixed(number: int) -> int:
    """The same of one number."""
    x = (number ^ (number >> 16)) * 0x7FEB352D & MASK
    x = (x ^ (x >> 15)) * 0x846CA68B & MASK
    return x ^ (x >> 16)
