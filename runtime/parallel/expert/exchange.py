"""Exchange: a copy of a token for each of its experts, to the ranks that hold these, and back."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ....kernels.permute import Permutation, permute, restore, sort_by_expert
from ... import collectives
from ...blocks.experts import Compute
from .transfer import Parts, Way, together, transferred


@dataclass(frozen=True, slots=True)
class Groups:
    """The ranks that experts are shared out over (`ep`), and those that share out every one of them (`etp`).

    Where ep goes over nodes: `nodes` are the ranks of equal place in each, `inside` those of ep in this node; the rank
    of ep is then that of nodes x size of inside + that of inside.
    """

    ep: dist.ProcessGroup | None
    etp: dist.ProcessGroup | None
    nodes: dist.ProcessGroup | None = None
    inside: dist.ProcessGroup | None = None

    @property
    def ep_size(self) -> int:
        return 1 if self.ep is None else self.ep.size()

    @property
    def etp_size(self) -> int:
        return 1 if self.etp is None else self.etp.size()


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where the rows of one routing go: how many to and from every rank, and their order once they are here.

    Over ep every rank sends each row to one rank. Over etp all ranks then need all rows of the group, since each
    holds a part of the width of the same experts; their results are added up on the way back.
    """

    groups: Groups
    sent: list[int]  # to each rank of ep
    received: list[int]  # from each rank of ep
    gathered: list[int]  # from each rank of etp
    to: Permutation  # from the order of arrival to that of the experts

    def way(self, rows: Tensor, compute: Compute) -> Way:
        """This rank's rows [rows, hidden], expert after expert, to what experts make of them."""
        if self.groups.ep is not None:
            rows = yield from transferred(rows, Parts(self.groups.ep, self.sent, self.received))
        if self.groups.etp is not None:
            (rows,) = yield from gathered_over([rows], self.groups.etp, self.gathered)
        rows = restore(compute(permute(rows, self.to), self.to.counts), self.to)
        if self.groups.etp is not None:
            rows = yield from summed_over(rows, self.groups.etp, self.gathered)
        if self.groups.ep is not None:
            rows = yield from transferred(rows, Parts(self.groups.ep, self.received, self.sent))
        return rows


def gathered_over(
    rows: Sequence[Tensor], group: dist.ProcessGroup, gathered: list[int]
) -> Generator[None, None, list[Tensor]]:
    """Tensors [rows, columns] of all ranks, `gathered` rows of each: an all-gather of unequal parts, which gloo does
    not have. Every rank sends all it has to all."""
    parts = Parts(group, [gathered[group.rank()]] * group.size(), gathered)
    return together([each.repeat(group.size(), 1) for each in rows], parts)


def summed_over(rows: Tensor, group: dist.ProcessGroup, gathered: list[int]) -> Way:
    """The way of `gathered_over` in the other direction: of a rank's own rows the sum of what all ranks have."""
    own = gathered[group.rank()]
    parts = yield from transferred(rows, Parts(group, gathered, [own] * group.size()))
    return parts.view(group.size(), own, rows.shape[-1]).sum(0)


def plan_exchanges(counts: Sequence[Tensor], groups: Groups) -> list[Exchange]:
    """The exchange of each chunk for its `counts` int64 [slots], this rank's rows for every slot of all ranks.

    Ranks tell each other their counts; the host waits for them once, for it must know how much to receive.
    """
    ep, chunks = groups.ep_size, len(counts)
    own = torch.stack(list(counts)).view(chunks, ep, -1)
    here = own.shape[-1]
    arriving = own if groups.ep is None else _turned(own, groups.ep)
    everywhere = arriving.flatten(1).unsqueeze(1)  # [chunks, ranks of etp, senders x slots here]
    if groups.etp is not None:
        everywhere = collectives.all_gather(everywhere.contiguous(), 1, groups.etp, "ep")
    sums = torch.cat([own.sum(-1), arriving.sum(-1), everywhere.sum(-1)], 1).tolist()
    exchanges = []
    for chunk, each in zip(everywhere, sums, strict=True):
        sent, received, gathered = each[:ep], each[ep : 2 * ep], each[2 * ep :]
        exchanges.append(Exchange(groups, sent, received, gathered, _arrivals(chunk.flatten(), here, sum(gathered))))
    return exchanges


def even_exchange(experts: int, capacity: int, groups: Groups, device: torch.device) -> Exchange:
    """The exchange where every rank sends `capacity` rows to each of the `experts` of the model: nobody is asked."""
    ep, etp, here = groups.ep_size, groups.etp_size, experts // groups.ep_size
    each = here * capacity
    counts = torch.full((here * ep * etp,), capacity, device=device)
    return Exchange(groups, [each] * ep, [each] * ep, [each * ep] * etp, _arrivals(counts, here, each * ep * etp))


def _turned(counts: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Of [chunks, receivers, ...] what the senders have for this rank, [chunks, senders, ...]."""
    even = [1] * group.size()
    return collectives.all_to_all(counts.transpose(0, 1).contiguous(), even, even, group, "ep").transpose(0, 1)


def _arrivals(counts: Tensor, here: int, rows: int) -> Permutation:
    """From the order of arrival, `counts` int64 [senders x experts here], to that of the experts."""
    expert = torch.arange(here, device=counts.device).repeat(len(counts) // here)
    return sort_by_expert(expert.repeat_interleave(counts, output_size=rows).unsqueeze(-1), here)
