"""Lengths: how many tokens the sequences of a job have, as a distribution.

A step draws `global_batch` of them. What is longer than the job's seq_len is cut there, so that the share of tokens at
the end of a long tail is known: `share_cut`. Drawn by seed and step: equal seeds give equal steps.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from ...schema import Frozen

if TYPE_CHECKING:  # imported where numbers are drawn: jobs whose sequences are all as long do without
    import numpy as np
    from numpy.typing import NDArray

    from .integers import Integers

MOST = 10**12
"""Tokens, more than any sequence has: what follows from them stays a number of 64 bits."""

_NORMAL = NormalDist()
Z99 = _NORMAL.inv_cdf(0.99)


class Histogram(Frozen):
    """Lengths that were counted: `lengths` ascending, and how many sequences have each."""

    kind: Literal["histogram"] = "histogram"
    lengths: tuple[Annotated[int, Field(ge=1, le=MOST)], ...] = Field(min_length=1)
    counts: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)

    @field_validator("lengths")
    @classmethod
    def _ascending(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if any(after <= before for before, after in pairwise(lengths)):
            raise ValueError("must ascend, each length once")
        return lengths

    @model_validator(mode="after")
    def _as_many(self) -> Histogram:
        if len(self.lengths) != len(self.counts):
            raise ValueError(f"{len(self.lengths)} lengths and {len(self.counts)} counts: must be as many")
        return self

    def mean(self, seq_len: int) -> float:
        """Tokens of a sequence, those that are too long cut."""
        total = sum(count * min(length, seq_len) for length, count in zip(self.lengths, self.counts, strict=True))
        return total / sum(self.counts)

    def share_cut(self, seq_len: int) -> float:
        """Share of the sequences that are longer than seq_len."""
        longer = sum(count for length, count in zip(self.lengths, self.counts, strict=True) if length > seq_len)
        return longer / sum(self.counts)

    def at(self, uniform: NDArray[np.float64]) -> Integers:
        """The quantiles at numbers of [0, 1)."""
        import numpy as np

        ends = np.cumsum(np.array(self.counts, dtype=np.float64)) / sum(self.counts)
        places = np.minimum(np.searchsorted(ends, uniform, side="right"), len(self.lengths) - 1)
        return np.array(self.lengths, dtype=np.int64)[places]

    def __str__(self) -> str:
        return f"{sum(self.counts):,} counted lengths, {self.lengths[0]:,} to {self.lengths[-1]:,} tokens"


class Lognormal(Frozen):
    """Lengths whose logarithm is normal, by their median and their 99th percentile in tokens."""

    kind: Literal["lognormal"] = "lognormal"
    median: float = Field(ge=1, le=MOST)
    p99: float = Field(ge=1, le=MOST)

    @model_validator(mode="after")
    def _upwards(self) -> Lognormal:
        if self.p99 < self.median:
            raise ValueError(f"p99 = {self.p99:g} must not be below median = {self.median:g}")
        return self

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm."""
        return math.log(self.p99 / self.median) / Z99

    def mean(self, seq_len: int) -> float:
        """Tokens of a sequence, those that are too long cut, without the rounding to whole tokens: E[min(X, c)] =
        exp(mu + s^2 / 2) Phi((ln c - mu - s^2) / s) + c (1 - Phi((ln c - mu) / s))."""
        mu, sigma = math.log(self.median), self.sigma
        if sigma == 0:
            return min(self.median, float(seq_len))
        end = (math.log(seq_len) - mu) / sigma
        return math.exp(mu + sigma**2 / 2) * _NORMAL.cdf(end - sigma) + seq_len * (1 - _NORMAL.cdf(end))

    def share_cut(self, seq_len: int) -> float:
        """Share of the sequences that are longer than seq_len."""
        if self.sigma == 0:
            return float(self.median > seq_len)
        return 1 - _NORMAL.cdf((math.log(seq_len) - math.log(self.median)) / self.sigma)

    def at(self, uniform: NDArray[np.float64]) -> Integers:
        """The quantiles at numbers of (0, 1)."""
        import numpy as np

        normal = np.array([_NORMAL.inv_cdf(each) for each in uniform])
        return np.clip(np.rint(self.median * np.exp(self.sigma * normal)), 1, MOST).astype(np.int64)

    def __str__(self) -> str:
        return f"lognormal, median {self.median:g} and p99 {self.p99:g} tokens"


def _kind(value: object) -> str:
    """What a mapping says that it is; pydantic's own discriminators allow no validator before them."""
    kind = value.get("kind", "histogram") if isinstance(value, dict) else getattr(value, "kind", "histogram")
    return str(kind)


Lengths = Annotated[
    Annotated[Histogram, Tag("histogram")] | Annotated[Lognormal, Tag("lognormal")], Discriminator(_kind)
]


def sample(lengths: Histogram | Lognormal, count: int, seq_len: int, seed: int, step: int = 0) -> Integers:
    """Lengths of the sequences of one step, [count], none above seq_len. Equal seeds and steps give equal lengths."""
    import numpy as np

    uniform = np.random.default_rng([seed, step]).random(count)
    return np.minimum(lengths.at(np.clip(uniform, 1e-12, 1 - 1e-12)), seq_len)
