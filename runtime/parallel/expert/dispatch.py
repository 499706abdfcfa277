"""Dispatch: tokens to their experts wherever these are, with or without a limit to what an expert takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ....kernels.permute import permute, slots_by_expert, sort_by_expert, unpermute
from ...blocks.experts import Compute
from .exchange import Groups, even_exchange, plan_exchange

Drop = Literal["probability", "position"]


@dataclass(frozen=True, slots=True)
class Dropless:
    """Every token visits all experts that it chose, however many chose the same (MegaBlocks, arXiv:2211.15841)."""

    experts: int
    groups: Groups

    def __call__(self, tokens: Tensor, weights: Tensor, experts: Tensor, compute: Compute) -> Tensor:
        to = sort_by_expert(experts, self.experts)
        exchange = plan_exchange(to.counts, self.groups)
        done = compute(exchange.there(permute(tokens, to)), exchange.to.counts)
        return unpermute(exchange.back(done), weights, to)


@dataclass(frozen=True, slots=True)
class Capacity:
    """Every expert takes ceil(factor x tokens x top_k / experts) of each rank's tokens (GShard, arXiv:2006.16668).

    Tokens are those of one rank and microbatch: what is dropped depends on how sequences are spread. Of too many, those
    with the largest weights stay (`probability`), or the first in the sequence (`position`), as in Megatron-Core; of
    equal ones the first. A dropped choice adds nothing, and the other weights of its token stay as they are.
    All sizes are known beforehand: rows without a token are zeros.
    """

    experts: int
    groups: Groups
    factor: float
    drop: Drop

    def __call__(self, tokens: Tensor, weights: Tensor, experts: Tensor, compute: Compute) -> Tensor:
        capacity = self.of(len(tokens), experts.shape[-1])
        priority = weights.detach() if self.drop == "probability" else weights.new_zeros(weights.shape)
        to = slots_by_expert(experts, priority, self.experts, capacity)
        exchange = even_exchange(self.experts, capacity, self.groups, tokens.device)
        done = compute(exchange.there(permute(tokens, to)), exchange.to.counts)
        return unpermute(exchange.back(done), weights, to)

    def of(self, tokens: int, top_k: int) -> int:
        """Rows for every expert, of `tokens` tokens."""
        return math.ceil(self.factor * tokens * top_k / self.experts)
