"""Checksum: 64 bits that tell whether a tensor is, bit for bit, what it was.

Every element's bits are mixed with its number in the whole tensor (SplitMix64's finaliser: Steele, Lea and Flood, Fast
Splittable Pseudorandom Number Generators, OOPSLA 2014, figure 16), and the results are added up modulo 2^64. So the
order matters, any change of one element changes the sum (the mixing is a bijection), others escape one time in 2^64,
and the sums of shards, however a tensor is cut, add up to that of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from .switch import runs_fast

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PART = 1 << 16  # words at a time in the reference: they stay in the cache
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@torch.no_grad()
def checksum(x: Tensor, begin: Sequence[int] | None = None, whole: Sequence[int] | None = None) -> Tensor:
    """int64 [] of `x`, which begins at `begin` in a tensor of the shape `whole`; alone by default. Any device and type
    of 1, 2, 4 or 8 bytes. One read of the tensor."""
    begin = [0] * x.ndim if begin is None else begin
    whole = x.shape if whole is None else whole
    if not x.ndim == len(begin) == len(whole):
        raise ValueError(f"checksum: begin {list(begin)} of whole {list(whole)}, expected {x.ndim} numbers of each")
    if any(at < 0 or at + size > most for at, size, most in zip(begin, x.shape, whole, strict=True)):
        raise ValueError(f"checksum: {list(x.shape)} at {list(begin)} is not within {list(whole)}")
    if x.element_size() not in _WORDS:
        raise TypeError(f"checksum: x is {x.dtype}, expected a type of 1, 2, 4 or 8 bytes")
    words = _words(x)
    total: Tensor = torch.zeros((), dtype=torch.int64, device=x.device)
    for part, first, width, stride in _runs(words, begin, whole):
        total += _sum(part, first, width, stride)
    return total


def combined(sums: Sequence[int]) -> int:
    """Of disjoint parts of a tensor, that of all of them; between -2^63 and 2^63, as torch has it."""
    return _signed(sum(sums) % 2**64)


def checksum_reference(words: Tensor, first: int, width: int, stride: int) -> Tensor:
    """int64 [] of integers `words`, rows of `width` of a tensor whose rows are `stride` apart; `first`: the number of
    the first. In plain PyTorch."""
    flat, total = words.flatten(), torch.zeros((), dtype=torch.int64, device=words.device)
    mask = 2 ** (8 * words.element_size()) - 1 if words.element_size() < 8 else -1
    for start in range(0, flat.numel(), _PART):
        bits = flat[start : start + _PART].to(torch.int64) & mask
        place = torch.arange(start, start + len(bits), device=words.device)
        if width < flat.numel():  # a division costs more than all the rest
            place = place // max(1, width) * stride + place % max(1, width)
        total += _mixed(bits, first + place).sum()
    return total


def _mixed(bits: Tensor, number: Tensor) -> Tensor:
    """int64 arithmetic wraps around as that of uint64 does; shifts must not bring the sign in."""
    mixed = bits + (number + 1) * _signed(_GOLDEN)
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(_FIRST)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(_SECOND)
    return mixed ^ _shifted(mixed, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    found: Tensor = (x >> bits) & (2 ** (64 - bits) - 1)
    return found


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _words(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(_WORDS[x.element_size()])


def _runs(x: Tensor, begin: Sequence[int], whole: Sequence[int]) -> Iterator[tuple[Tensor, int, int, int]]:
    """Parts of a box that are rows a constant stride apart: number of the first word, width and stride."""
    strides = [1] * len(whole)
    for dim in reversed(range(len(whole) - 1)):
        strides[dim] = strides[dim + 1] * whole[dim + 1]
    cut = len(whole)  # from here on everything is there: that and the dimension before it make one run
    while cut > 1 and x.shape[cut - 1] == whole[cut - 1]:
        cut -= 1
    width = x.shape[max(0, cut - 1) :].numel()
    lead = max(0, cut - 2)  # runs of this dimension are a constant stride apart
    while lead > 0 and x.shape[lead] == whole[lead]:
        lead -= 1
    for place in product(*(range(size) for size in x.shape[:lead])):
        at = [*(start + step for start, step in zip(begin, place, strict=False)), *begin[lead:]]
        first = sum(start * stride for start, stride in zip(at, strides, strict=True))
        yield x[place] if place else x, first, width, strides[cut - 2] if cut > 1 else width


def _sum(words: Tensor, first: int, width: int, stride: int) -> Tensor:
    if runs_fast("checksum", words, rows=1, width=words.numel()):
        from .fast.checksum import checksum as fast

        return fast(words, first, width, stride)
    return checksum_reference(words, first, width, stride)
