"""Linear: a projection that computes in the precision of its input."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """Weights may be held in float32 while activations are bfloat16; the product is taken in the latter.

    `unit` says how many neighbouring outputs belong together: the width of a head, or 1 where each stands alone.
    What follows works on each unit by itself. None: it works on all outputs at once.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool, unit: int | None = 1):
        super().__init__(inputs, outputs, bias=bias)
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight, self.bias)


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in] times weight [out, in], plus bias [out], in the dtype of x."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
