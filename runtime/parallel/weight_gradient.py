"""Weight gradients that are put off: the backward of a projection makes the gradient of its input and leaves a note.

A schedule that splits backwards (zero bubble, arXiv:2401.10241) runs a stage's backward as the input gradient (I) and
later the weight gradient (W). Here I is an ordinary backward pass of autograd, recomputation included, in which
projections only note their input and the gradient of their output; W takes the products of the notes. What is not a
projection (norms, biases, embedding, head, experts) has its gradient after I.

A note holds no weight, only the place in autograd's graph where its gradient enters: a cast, a slice or a
tensor-parallel shard between parameter and product is gone through backwards as ever, and FSDP finds gradients where
it looks for them. PyTorch's own split asks autograd for the weights after the inputs, and recomputes a checkpointed
layer again for each of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .. import compat
from ..blocks.linear import use_product


@dataclass(slots=True)
class Note:
    """A product of which the weight gradient is missing. `edge` is where it enters the graph."""

    edge: GradientEdge
    x: Tensor
    gradient: Tensor

    def settle(self) -> None:
        """Take the product, and let autograd carry it to the parameter."""
        weight = self.gradient.flatten(0, -2).t() @ self.x.flatten(0, -2)
        torch.autograd.backward(self.edge, weight)


@dataclass(slots=True)
class PutOff:
    """The notes of the backward pass that runs now; one pass runs at a time."""

    notes: list[Note] = field(default_factory=list)

    def take(self, part: nn.Module) -> Callable[[], None]:
        """What settles the notes of the pass that has just gone backward through `part`; PyTorch's pipeline calls it in
        W."""
        notes, self.notes = self.notes, []

        def settle() -> None:
            while notes:  # each lets go of its tensors before the next one's gradient is made
                notes.pop().settle()
            compat.sum_gradients(part)

        return settle

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [..., in] times weight [out, in]; its backward leaves a note instead of the weight gradient."""
        if not (torch.is_grad_enabled() and x.requires_grad and weight.requires_grad):
            return F.linear(x, weight)
        gradients: list[Tensor] = []
        y = F.linear(_keep(x, gradients, get_gradient_edge(weight), self), weight.detach())
        y.register_hook(gradients.append)  # type: ignore[no-untyped-call]
        return y

    @contextmanager
    def used(self) -> Iterator[None]:
        """Every projection of this process leaves its notes here."""
        before = use_product(self.product)
        try:
            yield
        finally:
            use_product(before)


class _Keep(torch.autograd.Function):
    """The input of a product, on its way there. Backward it comes after the product, whose output gradient is in
    `gradients` by then. (A product of its own kind would be repeated by recomputation, which stops at the last thing
    that is kept: PyTorch's keeps before it computes, one in here would after.)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradients: list[Tensor], edge: GradientEdge, put_off: PutOff) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gradients, ctx.edge, ctx.put_off = gradients, edge, put_off
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.put_off.notes.append(Note(ctx.edge, ctx.saved_tensors[0], ctx.gradients.pop()))
        return gradients[0], None, None, None


_keep: Callable[[Tensor, list[Tensor], GradientEdge, PutOff], Tensor] = _Keep.apply
