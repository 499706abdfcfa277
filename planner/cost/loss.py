"""Loss: bytes of the output projection and cross-entropy at their fullest, as the built-in runtime computes them.

By kernel logits become their own gradient where they stand, and the products of both gradients follow at once; so it
is in plain PyTorch where the loss is in chunks (`kernels/chunks.py`, `kernels/linear_cross_entropy.py`). What is made
in the forward pass stays until the backward pass scales it. Whole logits in plain PyTorch are the framework's
`logit_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Of one microbatch on one rank. In elements: `logits`, hidden states, and the projection's `weight`, of whose
    gradient nothing is made ahead where it is 0. `fused`: by kernel."""

    element: int
    chunks: int
    fused: bool
    logits: float
    hidden: float
    weight: float

    @property
    def ahead_bytes(self) -> float:
        """Made in the forward pass and kept: gradients of hidden states and of the weight, which adds up in fp32 where
        there are several chunks."""
        added = WIDE_BYTES if self.chunks > 1 else self.element
        return self.element * self.hidden + added * self.weight

    @property
    def logits_bytes(self) -> float:
        """Of a chunk: in the precision of compute, in plain PyTorch beside its copy in fp32."""
        wide = 0 if self.fused else WIDE_BYTES
        own = 0 if not self.fused and self.element == WIDE_BYTES else self.element
        return (own + wide) * self.logits / self.chunks

    @property
    def product_bytes(self) -> float:
        """The weight's gradient of a chunk before it is added, as far as it is more than the copy that is gone then."""
        if self.chunks == 1 or self.element == WIDE_BYTES:
            return 0.0
        gone = 0.0 if self.fused else WIDE_BYTES * self.logits / self.chunks
        return max(0.0, self.element * self.weight - gone)

    @property
    def scaled_bytes(self) -> float:
        """Of the backward pass: both gradients once more, times that of the loss."""
        return self.element * (self.hidden + self.weight)


def shared_bytes(element: int) -> int:
    """Of a logit, in plain PyTorch where ranks have shares of the vocabulary (`kernels/cross_entropy.py`): its gradient
    in fp32, made in the forward pass, that times the gradient of the loss, and a cast."""
    return 2 * WIDE_BYTES + (0 if element == WIDE_BYTES else element)
