"""Documents: which tokens of a packed sequence may see each other."""

from __future__ import annotations

import torch
from torch import Tensor


def documents_of(tokens: Tensor, separator: int) -> Tensor:
    """Numbers, int64 and ascending, of the documents that tokens [sequences, seq_len] belong to.

    `separator` is the last token of a document. What comes before the first of a sequence is document 0, whether or not
    it began there.
    """
    ends = (tokens == separator).to(torch.int64)
    return ends.cumsum(1) - ends
