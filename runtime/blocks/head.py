"""Head: vectors to logits, or to the loss of what should have come next."""

from __future__ import annotations

from torch import Tensor

from ...kernels.cross_entropy import cross_entropy
from .linear import Linear, multiply


class Head(Linear):
    """[batch, seq_len, hidden] to logits [batch, seq_len, vocab], or with targets to the sum of their losses."""

    def __init__(self, vocab: int, hidden: int, softcap: float | None = None):
        super().__init__(hidden, vocab, bias=False)
        self.softcap = softcap

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        return self.logits(x) if targets is None else self.loss(x, targets)

    def logits(self, x: Tensor) -> Tensor:
        return capped(multiply(x, self.weight), self.softcap)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Sum over the tokens of `x` [batch, tokens, hidden]: that of a sequence is the sum of those of its parts."""
        return cross_entropy(self.logits(x), targets)


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Logits drawn into (-softcap, softcap), as in Gemma 2 (arXiv:2408.00118, section 2)."""
    return logits if softcap is None else (logits / softcap).tanh() * softcap
