"""Head: vectors to logits, or to the loss of what should have come next."""

from __future__ import annotations

from torch import Tensor

from ...kernels.cross_entropy import capped, cross_entropy
from ...kernels.linear_cross_entropy import fuses, linear_cross_entropy
from ...kernels.terms import PLAIN, Terms
from .linear import Linear, multiply


class Head(Linear):
    """[batch, seq_len, hidden] to logits [batch, seq_len, vocab], or with targets to the sum of their losses."""

    def __init__(self, vocab: int, hidden: int, softcap: float | None = None):
        super().__init__(hidden, vocab, bias=False)
        self.softcap = softcap
        self.added = PLAIN  # what the recipe adds to the loss

    @property
    def terms(self) -> Terms:
        """Of the loss."""
        return self.added._replace(softcap=self.softcap)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        return self.logits(x) if targets is None else self.loss(x, targets)

    def logits(self, x: Tensor) -> Tensor:
        return capped(multiply(x, self.weight), self.softcap)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Sum over the tokens of `x` [batch, tokens, hidden]: that of a sequence is the sum of those of its parts."""
        if fuses(x, self.weight):
            return linear_cross_entropy(x, self.weight, targets, **self.terms._asdict())
        return cross_entropy(self.logits(x), targets, self.added)
