"""Batch: what one rank trains on in one step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens and the token that follows each, int64 [sequences, seq_len]; targets below zero count nothing.

    `documents` [sequences, seq_len] numbers the documents that tokens belong to; None: each sequence is one. `draws`
    [sequences] is what sequences drop out by; None: nothing is dropped out. `weight` is what losses are divided by:
    the targets of all ranks that hold other tokens, over the number of these ranks, so that the mean over them is that
    of the global batch.
    """

    tokens: Tensor
    targets: Tensor
    documents: Tensor | None
    weight: float
    draws: Tensor | None = None

    @property
    def shared(self) -> dict[str, Tensor]:
        """What every stage of a pipeline needs beside its input, by the names of its arguments."""
        found = {"documents": self.documents, "draws": self.draws}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def split(self, microbatches: int) -> Iterator[Batch]:
        """Equal parts, in order."""
        nothing = [None] * microbatches
        documents = nothing if self.documents is None else self.documents.chunk(microbatches)
        draws = nothing if self.draws is None else self.draws.chunk(microbatches)
        parts = zip(self.tokens.chunk(microbatches), self.targets.chunk(microbatches), documents, draws, strict=True)
        for tokens, targets, own, drawn in parts:
            yield Batch(tokens, targets, own, self.weight, drawn)
