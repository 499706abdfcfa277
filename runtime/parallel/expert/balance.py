"""Balance: losses on routing that add to the gradient alone, and biases that move without a gradient.

With f_i the choices of expert i a token and P_i its mean probability, the balancing loss of a layer is
experts x sum_i f_i P_i (Switch Transformer, arXiv:2101.03961, equations 4 to 6; top_k at perfect balance, as
`load_balancing_loss_func` of transformers counts). Losses of layers add up, those of microbatches and ranks are
averaged. P is always taken over the tokens at hand; f over the same microbatch, or over the global batch
(arXiv:2501.11873): all data-parallel ranks, and the microbatches of the step so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ... import collectives, compat
from ...blocks.router import Routing
from .load import count


@dataclass(frozen=True, slots=True)
class Scale:
    """What makes the sum of what ranks and microbatches add to a gradient their mean.

    The executor divides by the ranks whose gradients are averaged, `data`; `parts` are all ranks of a stage, which
    route different tokens each, times the microbatches.
    """

    data: int
    parts: int

    def of(self, coefficient: float, tokens: int) -> float:
        """The factor for a sum over the `tokens` of one rank and microbatch, all of which count alike."""
        return coefficient * self.data / (self.parts * tokens)


class BalancingLoss:
    """Lets the balancing loss of one layer add to its gradients.

    `groups` are those over whose ranks, one after the other, choices are counted; with `so_far` those of the step's
    earlier microbatches count too.
    """

    def __init__(self, coefficient: float, scale: Scale, groups: Sequence[dist.ProcessGroup], *, so_far: bool):
        self.coefficient, self.scale, self.groups, self.so_far = coefficient, scale, groups, so_far
        self._ranks = math.prod(group.size() for group in groups)
        self.reset()

    def reset(self) -> None:
        """Begin a step."""
        self._choices: Tensor | None = None
        self._tokens = 0

    def __call__(self, routing: Routing) -> Routing:
        if not routing.weights.requires_grad:
            return routing
        tokens, experts = routing.probabilities.shape
        row = self._frequency(routing) * (experts * self.scale.of(self.coefficient, tokens))
        return routing._replace(weights=_add_linear(routing.weights, routing.probabilities, row))

    def _frequency(self, routing: Routing) -> Tensor:
        """Choices of each expert a token, float32 [experts]."""
        if compat.in_backward():  # a recomputation: nobody reads this, see _AddLinear
            return torch.zeros_like(routing.probabilities[0])
        if not self.so_far:
            self.reset()
        choices = count(routing)
        for group in self.groups:
            choices = collectives.all_reduce(choices, group, "ep")
        self._choices = choices if self._choices is None else self._choices + choices
        self._tokens += len(routing.experts) * self._ranks
        return self._choices.float() / self._tokens


class RouterZLoss:
    """Lets the mean square of the log-sum-exp of logits add to gradients (ST-MoE, arXiv:2202.08906, equation 5)."""

    def __init__(self, coefficient: float, scale: Scale):
        self.coefficient, self.scale = coefficient, scale

    def __call__(self, routing: Routing) -> Routing:
        if not routing.weights.requires_grad:
            return routing
        squares = routing.logits.float().logsumexp(-1, keepdim=True).square()
        row = squares.new_full((1,), self.scale.of(self.coefficient, len(squares)))
        return routing._replace(weights=_add_linear(routing.weights, squares, row))


class _AddLinear(torch.autograd.Function):
    """Weights unchanged; backward, `values` [tokens, columns] get the gradient `row` [columns] each.

    As if sum(values x row) were part of the loss, on whatever stage of a pipeline. The row is kept on the node itself
    and not as a saved tensor: a recomputation in the backward pass, at which later microbatches have been counted,
    makes a new one that nobody reads.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, row: Tensor) -> Tensor:
        ctx.row, ctx.size, ctx.dtype = row, values.shape, values.dtype
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0], ctx.row.to(ctx.dtype).expand(ctx.size), None


_add_linear: Callable[[Tensor, Tensor, Tensor], Tensor] = _AddLinear.apply


@torch.no_grad()
def move_bias(bias: Tensor, counts: Tensor, rate: float) -> None:
    """Make experts with more than their share of a step's choices, `counts` [experts], less likely to be chosen in the
    next, and the others more (arXiv:2408.15664, algorithm 1; arXiv:2412.19437, section 2.1.2)."""
    counts = counts.float()
    bias.add_(rate * (counts.mean() - counts).sign())
