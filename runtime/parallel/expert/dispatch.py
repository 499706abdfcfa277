"""Dispatch: tokens to their experts wherever these are, with or without a limit to what an expert takes.

A microbatch goes in `chunks` parts of its tokens: while the products of one are taken, the next is on its way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ....kernels.permute import Permutation, permute, slots_by_expert, sort_by_expert, unpermute
from ....planner.configuration import Dispatch as Sent
from ...blocks.experts import Compute
from .exchange import Exchange, Groups, even_exchange, plan_exchanges
from .transfer import Way, overlapped
from .visits import plan_visits

Drop = Literal["probability", "position"]


@dataclass(frozen=True, slots=True)
class Dropless:
    """Every token visits all experts that it chose, however many chose the same (MegaBlocks, arXiv:2211.15841).

    `slots` are those of all ranks, equally many a rank. `sent`: a copy for each expert, for each rank that a token
    visits, or for each node.
    """

    slots: int
    groups: Groups
    sent: Sent = "copies"
    chunks: int = 1

    def __call__(self, tokens: Tensor, weights: Tensor, experts: Tensor, compute: Compute) -> Tensor:
        sizes = even_parts(len(tokens), self.chunks)
        parts = list(zip(*(torch.split(each, sizes) for each in (tokens, weights, experts)), strict=True))
        ways = self._copies(parts, compute) if self.sent == "copies" else self._visits(parts, compute)
        return _joined(overlapped(list(ways)), 0)

    def _copies(self, parts: Sequence[tuple[Tensor, ...]], compute: Compute) -> Iterator[Way]:
        orders = [sort_by_expert(experts, self.slots) for _, _, experts in parts]
        exchanges = plan_exchanges([to.counts for to in orders], self.groups)
        for (tokens, weights, _), to, exchange in zip(parts, orders, exchanges, strict=True):
            yield _copied(tokens, weights, to, exchange, compute)

    def _visits(self, parts: Sequence[tuple[Tensor, ...]], compute: Compute) -> Iterator[Way]:
        routes = plan_visits([slots for _, _, slots in parts], self.slots, self.groups, self._hops)
        for (tokens, weights, slots), route in zip(parts, routes, strict=True):
            yield route.way(tokens, weights, slots, compute)

    @property
    def _hops(self) -> list[dist.ProcessGroup]:
        """One after the other."""
        hops = [self.groups.nodes, self.groups.inside] if self.sent == "nodes" else [self.groups.ep]
        return [group for group in hops if group is not None]


@dataclass(frozen=True, slots=True)
class Capacity:
    """Every expert takes ceil(factor x tokens x top_k / experts) of each rank's tokens (GShard, arXiv:2006.16668).

    Tokens are those of one rank and microbatch, of all chunks: what is dropped depends on how sequences are spread. Of
    too many, those with the largest weights stay (`probability`), or the first in the sequence (`position`), as in
    Megatron-Core; of equal ones the first. A dropped choice adds nothing, and the other weights of its token stay as
    they are. Where a copy is sent for each expert all sizes are known beforehand: rows without a token are zeros, and
    each chunk has its part of every expert's. Else the choices that stay are sent as `dropless` sends them.
    """

    dropless: Dropless
    factor: float
    drop: Drop

    def __call__(self, tokens: Tensor, weights: Tensor, experts: Tensor, compute: Compute) -> Tensor:
        count, capacity = self.dropless.slots, self.of(len(tokens), experts.shape[-1])
        priority = weights.detach() if self.drop == "probability" else weights.new_zeros(weights.shape)
        to = slots_by_expert(experts, priority, count, capacity)
        if self.dropless.sent != "copies":
            dropped = to.inverse.view_as(experts) < 0
            return self.dropless(tokens, weights, experts.masked_fill(dropped, -1), compute)
        rows = permute(tokens, to).view(count, capacity, tokens.shape[-1])
        sizes = even_parts(capacity, self.dropless.chunks)
        exchanges = [even_exchange(count, size, self.dropless.groups, tokens.device) for size in sizes]
        parts = zip(torch.split(rows, sizes, 1), exchanges, strict=True)
        done = overlapped([exchange.way(part.flatten(0, 1), compute) for part, exchange in parts])
        whole = [part.view(count, size, tokens.shape[-1]) for part, size in zip(done, sizes, strict=True)]
        return unpermute(_joined(whole, 1).flatten(0, 1), weights, to)

    def of(self, tokens: int, top_k: int) -> int:
        """Rows for every expert, of `tokens` tokens."""
        return math.ceil(self.factor * tokens * top_k / self.dropless.slots)


def _copied(tokens: Tensor, weights: Tensor, to: Permutation, exchange: Exchange, compute: Compute) -> Way:
    """A chunk of tokens [tokens, hidden] to their weighted sums."""
    return unpermute((yield from exchange.way(permute(tokens, to), compute)), weights, to)


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Of one part nothing is copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def even_parts(number: int, parts: int) -> list[int]:
    """Of sizes that differ by one at most; the first ones get what is left over."""
    return [number // parts + (part < number % parts) for part in range(parts)]
