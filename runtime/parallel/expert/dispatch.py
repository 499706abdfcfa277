"""Dispatch: tokens to their experts wherever these are, without dropping any."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ....kernels.permute import permute, sort_by_expert, unpermute
from ...blocks.experts import Compute
from .exchange import Groups, plan_exchange


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
