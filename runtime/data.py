"""Which tokens the sample numbered i holds: a pure function of the seed and i.

A run's position in its data is one number, the global sample index. Ranks share it: whatever the number of
ranks, batch after batch takes the next samples in order, so a run that resumes on other ranks neither
repeats nor skips one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .tokens import Tokens

Indices = NDArray[np.uint64]
_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Samples:
    """Windows of `seq_len` + 1 tokens that overlap by one, in an order shuffled anew for each epoch."""

    tokens: Tokens
    seq_len: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Windows in the token file; what is left over at its end is not used."""
        return (len(self.tokens) - 1) // self.seq_len

    def windows(self, indices: range) -> list[int]:
        """Which window of the file each global sample index means."""
        return in_epochs(indices, self.per_epoch, self.seed)

    def batch(self, indices: range) -> NDArray[np.int64]:
        """Tokens of ascending global sample indices, [len(indices), seq_len + 1]."""
        starts = (window * self.seq_len for window in self.windows(indices))
        return np.stack([self.tokens[start : start + self.seq_len + 1] for start in starts]).astype(np.int64)


def in_epochs(indices: range, per_epoch: int, seed: int) -> list[int]:
    """Which of `per_epoch` things each ascending global sample index means: all of them, shuffled, and once more."""
    epochs: dict[int, list[int]] = {}
    for index in indices:
        epochs.setdefault(index // per_epoch, []).append(index % per_epoch)
    return [
        int(place)
        for epoch, places in epochs.items()
        for place in shuffled(np.array(places, dtype=np.uint64), per_epoch, seed, epoch)
    ]


def local_samples(sample_index: int, sizes: Sequence[int], dp_rank: int) -> range:
    """The samples of the next global batch that data-parallel rank `dp_rank` trains on.

    `sample_index` is how many samples the run has used; ranks take adjacent parts in rank order, of `sizes` samples.
    """
    first = sample_index + sum(sizes[:dp_rank])
    return range(first, first + sizes[dp_rank])


def shuffled(places: Indices, size: int, seed: int, epoch: int) -> Indices:
    """Where a pseudo-random permutation of range(size) sends `places`, without storing the permutation.

    A Feistel network permutes a power of four that is at least `size`; walking its cycles until the result is
    below `size` makes that a permutation of the range (Black and Rogaway, Ciphers with Arbitrary Finite
    Domains, CT-RSA 2002, section 4). Fewer than four walks are expected.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _keys(seed, epoch)
    result = _feistel(places, half_bits, keys)
    while len(outside := np.flatnonzero(result >= size)):
        result[outside] = _feistel(result[outside], half_bits, keys)
    return result


@lru_cache(maxsize=4)
def _keys(seed: int, epoch: int) -> Indices:
    return np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64).astype(np.uint64)


def _feistel(values: Indices, half_bits: int, keys: Indices) -> Indices:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << bits) | right


def _mix(values: Indices) -> Indices:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit moves every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
