"""Experts: gated feed-forward blocks, of which every token visits a few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ...kernels.grouped import grouped_linear
from ...kernels.permute import permute, sort_by_expert, unpermute
from ...kernels.swiglu import gated
from .moe_shape import MoeShape
from .narrow import Matrix, narrowed

Compute = Callable[[Tensor, Tensor], Tensor]
"""Rows [rows, hidden] in the order of the experts that are held, and their counts int64 [experts], to the same rows."""

Dispatch = Callable[[Tensor, Tensor, Tensor, Compute], Tensor]
"""Tokens [tokens, hidden], weights and experts [tokens, top_k] to the weighted sums [tokens, hidden]."""

ToSlots = Callable[[Tensor], Tensor]
"""Experts int64 [tokens, top_k] to the slots where they lie."""

Activate = Callable[[Tensor, Tensor], Tensor]
"""Gate and up to what goes down, element by element."""


class Experts(nn.Module):
    """Weights are stacked: one grouped product serves all experts, and sharding them is sharding dimension 0.

    `dispatch` brings tokens to their experts and back; expert parallelism replaces it. `count` matrices are stacked:
    one an expert, or one a slot, where `to_slots` says in which slots experts lie.
    """

    def __init__(self, hidden: int, shape: MoeShape, activation: str):
        super().__init__()
        self.count = shape.experts
        self.gate_proj = nn.Parameter(torch.empty(shape.experts, shape.width, hidden))
        self.up_proj = nn.Parameter(torch.empty(shape.experts, shape.width, hidden))
        self.down_proj = nn.Parameter(torch.empty(shape.experts, hidden, shape.width))
        self.activate: Activate = partial(gated, name=activation)
        self.dispatch: Dispatch = self.dispatch_here
        self.to_slots: ToSlots | None = None

    def forward(self, tokens: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        slots = experts if self.to_slots is None else self.to_slots(experts)
        stacked = (self.gate_proj, self.up_proj, self.down_proj)
        matrices = [narrowed(self.matrix(weight), tokens.dtype) for weight in stacked]
        return self.dispatch(tokens, weights, slots, partial(self.compute, matrices))

    def compute(self, matrices: Sequence[Matrix], rows: Tensor, counts: Tensor) -> Tensor:
        """down(activation(gate(x)) * up(x)) of every row with the weights of its expert: gate, up and down of all."""
        gate, up, down = (matrix() for matrix in matrices)
        inner = self.activate(grouped_linear(rows, gate, counts), grouped_linear(rows, up, counts))
        return grouped_linear(inner, down, counts)

    def matrix(self, weight: Tensor) -> Tensor:
        """What this process holds of a stacked weight."""
        return weight

    def dispatch_here(self, tokens: Tensor, weights: Tensor, experts: Tensor, compute: Compute) -> Tensor:
        """All experts are here: nothing is sent."""
        to = sort_by_expert(experts, self.count)
        return unpermute(compute(permute(tokens, to), to.counts), weights, to)
