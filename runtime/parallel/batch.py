"""Batch: what one rank trains on in one step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens and the token that follows each, int64 [sequences, seq_len]; targets below zero count nothing.

    `documents` [sequences, seq_len] numbers the documents that tokens belong to; None: each sequence is one.
    `weight` is what losses are divided by: the targets of all ranks that hold other tokens, over the number of these
    ranks, so that the mean over them is that of the global batch.
    """

    tokens: Tensor
    targets: Tensor
    documents: Tensor | None
    weight: float

    def split(self, microbatches: int) -> Iterator[Batch]:
        """Equal parts, in order."""
        documents = [None] * microbatches if self.documents is None else self.documents.chunk(microbatches)
        parts = zip(self.tokens.chunk(microbatches), self.targets.chunk(microbatches), documents, strict=True)
        for tokens, targets, own in parts:
            yield Batch(tokens, targets, own, self.weight)
