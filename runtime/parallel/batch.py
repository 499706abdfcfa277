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
    of the global batch. `order` [sequences, 2, seq_len] says where tokens and targets stand in their sequences
    (blocks/order.py; documents stand in order); None: in order.
    """

    tokens: Tensor
    targets: Tensor
    documents: Tensor | None
    weight: float
    draws: Tensor | None = None
    order: Tensor | None = None

    @property
    def shared(self) -> dict[str, Tensor]:
        """What every stage of a pipeline needs beside its input, by the names of its arguments."""
        found = {"documents": self.documents, "draws": self.draws, "order": self.order}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def split(self, microbatches: int) -> Iterator[Batch]:
        """Equal parts, in order."""
        parts = {name: tensor.chunk(microbatches) for name, tensor in self.shared.items()}
        whole = zip(self.tokens.chunk(microbatches), self.targets.chunk(microbatches), strict=True)
        for number, (tokens, targets) in enumerate(whole):
            own = {name: chunks[number] for name, chunks in parts.items()}
            yield Batch(tokens, targets, own.pop("documents", None), self.weight, **own)
