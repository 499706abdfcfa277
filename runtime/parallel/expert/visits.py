"""Visits: one copy of a token for each rank, or node, that it visits, however many of its experts are there.

With a token go its weights and slots. The rank that computes adds up the token's weighted rows, so that one row a visit
goes back; over nodes (2-D, hierarchical) the rank of equal place there passes a token on inside the node, and adds up
what comes back before it goes home. Weights get their gradients by the way of the sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ... import collectives
from ...blocks.experts import Compute
from .exchange import Groups, gathered_over, summed_over
from .fan import fan_to_choices, fan_to_parts, visited
from .transfer import Parts, Way, together, transferred


@dataclass(frozen=True, slots=True)
class Route:
    """The visits of one chunk: rows to and from every rank in one hop after another, rows of each rank of etp, and the
    pairs of row and slot that this rank computes. `slots` are those of all ranks."""

    slots: int
    hops: tuple[Parts, ...]
    etp: dist.ProcessGroup | None
    gathered: list[int]
    pairs: int

    def way(self, tokens: Tensor, weights: Tensor, slots: Tensor, compute: Compute) -> Way:
        """Tokens [tokens, hidden] to their weighted sums; weights and slots [tokens, choices], a slot below zero is
        none."""
        return self._hop(0, tokens, weights.float(), slots, self.slots, compute)

    def _hop(self, depth: int, rows: Tensor, weights: Tensor, slots: Tensor, held: int, compute: Compute) -> Way:
        """On to the parts of this hop, each of which has so many of the slots `held` from here on."""
        if depth == len(self.hops):
            return (yield from self._arrived(rows, weights, slots, held, compute))
        hop = self.hops[depth]
        each = held // hop.group.size()
        to = fan_to_parts(slots.div(each, rounding_mode="floor"), hop.group.size(), sum(hop.sent))
        rows, packed = yield from together([to.out(rows), to.out(_packed(weights, slots))], hop)
        weights, slots = _unpacked(packed)
        first = hop.group.rank() * each
        slots = torch.where((slots >= first) & (slots < first + each), slots - first, -1)
        done = yield from self._hop(depth + 1, rows, weights, slots, each, compute)
        return to.back((yield from transferred(done, hop.back)))

    def _arrived(self, rows: Tensor, weights: Tensor, slots: Tensor, held: int, compute: Compute) -> Way:
        """All ranks of etp compute all rows of the group, each with its part of the width."""
        if self.etp is None:
            return self._compute(rows, weights, slots, held, compute)
        rows, packed = yield from gathered_over([rows, _packed(weights, slots)], self.etp, self.gathered)
        done = self._compute(rows, *_unpacked(packed), held, compute)
        return (yield from summed_over(done, self.etp, self.gathered))

    def _compute(self, rows: Tensor, weights: Tensor, slots: Tensor, held: int, compute: Compute) -> Tensor:
        to, pairs, counts = fan_to_choices(slots, held, self.pairs)
        return to.back(compute(to.out(rows), counts), pairs.out(weights.reshape(-1, 1)))


def plan_visits(chunks: Sequence[Tensor], count: int, groups: Groups, hops: Sequence[dist.ProcessGroup]) -> list[Route]:
    """The route of each chunk for its slots int64 [tokens, choices], of `count` on all ranks: ep in one hop, or its
    nodes and then the ranks inside.

    Ranks tell each other their counts, one hop after another; the host waits for them once, at the end.
    """
    counts = [torch.stack(each, -1) for each in zip(*(_counts(slots, count, hops) for slots in chunks), strict=True)]
    known: list[Tensor] = []  # [chunks, ranks] each: sent and received in every hop
    for group in hops:
        arrived = _told(counts, group)
        known += [counts[0].t(), arrived[0].t()]
        counts = [each.view(len(each), *mine.shape[1:]).sum(0) for each, mine in zip(arrived, counts, strict=True)][1:]
    rows = known[-1].sum(1) if hops else torch.stack([counts[0].new_full((), len(slots)) for slots in chunks])
    here = torch.stack([rows, counts[0]], -1).unsqueeze(1)  # [chunks, 1, 2]: rows that arrive, and pairs
    everywhere = here if groups.etp is None else collectives.all_gather(here, 1, groups.etp, "ep")
    sizes = torch.cat([*known, everywhere[..., 0], everywhere[..., 1].sum(1, keepdim=True)], 1).tolist()
    return [_route(each, count, groups.etp, hops) for each in sizes]


def _counts(slots: Tensor, count: int, hops: Sequence[dist.ProcessGroup]) -> list[Tensor]:
    """Of one chunk: visits at every depth, int64 [ranks of the first hop, ... of that hop], and at last pairs."""
    sizes = [group.size() for group in hops]
    found = []
    for depth in range(1, len(sizes) + 1):
        parts = math.prod(sizes[:depth])
        part = slots.div(count // parts, rounding_mode="floor")
        found.append(visited(part, parts).sum(0).view(sizes[:depth]))
    each = count // math.prod(sizes)
    ranks = slots.div(each, rounding_mode="floor").flatten()
    total = torch.zeros(math.prod(sizes) + 1, dtype=torch.int64, device=slots.device)
    total.scatter_add_(0, torch.where(ranks < 0, math.prod(sizes), ranks), torch.ones_like(ranks))
    return [*found, total[:-1].view(sizes)]


def _told(counts: Sequence[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """What every rank has for this one, of `counts` [ranks, ..., chunks] each: [senders, the rest], one message."""
    flat = [each.reshape(group.size(), -1) for each in counts]
    even = [1] * group.size()
    arrived = collectives.all_to_all(torch.cat(flat, 1), even, even, group, "ep")
    return list(torch.split(arrived, [each.shape[1] for each in flat], 1))


def _route(sizes: list[int], count: int, etp: dist.ProcessGroup | None, hops: Sequence[dist.ProcessGroup]) -> Route:
    """Of the numbers of one chunk in their order in `plan_visits`."""
    parts, at = [], 0
    for group in hops:
        end = at + 2 * group.size()
        parts.append(Parts(group, sizes[at : at + group.size()], sizes[at + group.size() : end]))
        at = end
    return Route(count, tuple(parts), etp, sizes[at:-1], sizes[-1])


def _packed(weights: Tensor, slots: Tensor) -> Tensor:
    """As one message: numbers of slots are exact in float32."""
    return torch.cat([weights, slots.to(weights.dtype)], 1)


def _unpacked(packed: Tensor) -> tuple[Tensor, Tensor]:
    weights, slots = packed.chunk(2, 1)
    return weights, slots.detach().to(torch.int64)
