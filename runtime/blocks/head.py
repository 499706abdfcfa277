"""Head: vectors to logits, or to the loss of what should have come next."""

from __future__ import annotations

from torch import Tensor

from ...kernels.cross_entropy import cross_entropy
from .linear import Linear


class Head(Linear):
    """[batch, seq_len, hidden] to [batch, seq_len, vocab], or with targets to the sum of their losses."""

    def __init__(self, vocab: int, hidden: int):
        super().__init__(hidden, vocab, bias=False)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = super().forward(x)
        return logits if targets is None else cross_entropy(logits, targets)
