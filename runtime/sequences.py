"""Which document the sample numbered i is, where documents are trained one by one, each as long as it is.

As `data.Samples`, a pure function of the seed and i, the same whatever the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .data import in_epochs
from .tokens import Tokens

_SCAN_TOKENS = 1 << 24


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents of a token file with two tokens or more, from `starts` to `stops`, in an order shuffled anew for each
    epoch; of long ones the first `seq_len` + 1 tokens."""

    tokens: Tokens
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    seq_len: int
    seed: int

    @classmethod
    def of(cls, tokens: Tokens, separator: int, seq_len: int, seed: int) -> Documents:
        """`separator` is the last token of a document. Raises InputError where there is none to train."""
        ends = [np.flatnonzero(tokens[at : at + _SCAN_TOKENS] == separator) + at for at in _pieces(len(tokens))]
        stops = np.unique(np.append(np.concatenate(ends) + 1, len(tokens)))
        starts = np.append(0, stops[:-1])
        kept = stops - starts > 1
        if not kept.any():
            rule = "holds no document of two tokens or more"
            raise InputError.single("recipe", "data", None, rule, "more text")
        return cls(tokens, starts[kept].astype(np.int64), stops[kept].astype(np.int64), seq_len, seed)

    @property
    def per_epoch(self) -> int:
        return len(self.starts)

    def lengths(self, indices: range) -> list[int]:
        """Tokens that are trained of each."""
        places = in_epochs(indices, self.per_epoch, self.seed)
        found: list[int] = np.minimum(self.stops[places] - self.starts[places] - 1, self.seq_len).tolist()
        return found

    def sequences(self, indices: range) -> list[NDArray[np.int64]]:
        """Tokens of ascending global sample indices, [up to seq_len + 1] each."""
        found = []
        for place in in_epochs(indices, self.per_epoch, self.seed):
            start = int(self.starts[place])
            stop = min(int(self.stops[place]), start + self.seq_len + 1)
            found.append(self.tokens[start:stop].astype(np.int64))
        return found


def _pieces(count: int) -> range:
    return range(0, max(1, count), _SCAN_TOKENS)
