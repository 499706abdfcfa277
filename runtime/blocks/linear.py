"""Linear: a projection that computes in the precision of its input."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Product = Callable[[Tensor, Tensor], Tensor]
"""x [..., in] times weight [out, in]."""

_product: Product = F.linear


def use_product(product: Product) -> Product:
    """Let every projection of this process multiply so from now on; returns how it did before. Recomputed layers run in
    threads of autograd, which see this and would not see a thread's own setting."""
    global _product
    before, _product = _product, product
    return before


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
    if _product is F.linear:
        return multiply(x, weight, bias)
    projected = _product(x, weight.to(x.dtype))
    return projected if bias is None else projected + bias.to(x.dtype)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same, whatever `use_product` says: for heads, whose output gradients are too large to wait."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
