"""Exchange: rows to the ranks that hold their experts, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ....kernels.permute import Permutation, permute, restore, sort_by_expert
from ... import compat


@dataclass(frozen=True, slots=True)
class Groups:
    """The ranks that experts are shared out over (`ep`), and those that share out every one of them (`etp`)."""

    ep: dist.ProcessGroup | None
    etp: dist.ProcessGroup | None

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

    def there(self, rows: Tensor) -> Tensor:
        """This rank's rows [rows, hidden], expert after expert, to those that arrive here, expert after expert."""
        if self.groups.ep is not None:
            rows = compat.all_to_all(rows, self.received, self.sent, self.groups.ep)
        if self.groups.etp is not None:
            # An all-gather of unequal parts, which gloo does not have: every rank sends all it has to all.
            copies, own = self.groups.etp.size(), len(rows)
            rows = compat.all_to_all(rows.repeat(copies, 1), self.gathered, [own] * copies, self.groups.etp)
        return permute(rows, self.to)

    def back(self, rows: Tensor) -> Tensor:
        """The way of `there` in the other direction."""
        rows = restore(rows, self.to)
        if self.groups.etp is not None:
            copies, own = self.groups.etp.size(), sum(self.received)
            rows = compat.all_to_all(rows, [own] * copies, self.gathered, self.groups.etp)
            rows = rows.view(copies, own, rows.shape[-1]).sum(0)
        if self.groups.ep is not None:
            rows = compat.all_to_all(rows, self.sent, self.received, self.groups.ep)
        return rows


def plan_exchange(counts: Tensor, groups: Groups) -> Exchange:
    """The exchange for `counts` int64 [experts], this rank's rows for every expert of the model.

    Ranks tell each other their counts; the host waits for them once, for it must know how much to receive.
    """
    ep, etp = groups.ep_size, groups.etp_size
    own = counts.view(ep, -1)
    here = own.shape[-1]
    arriving = counts if groups.ep is None else compat.all_to_all(counts, [here] * ep, [here] * ep, groups.ep)
    everywhere = arriving if groups.etp is None else compat.all_gather(arriving, 0, groups.etp)
    sums = torch.cat([own.sum(1), arriving.view(ep, -1).sum(1), everywhere.view(etp, -1).sum(1)]).tolist()
    sent, received, gathered = sums[:ep], sums[ep : 2 * ep], sums[2 * ep :]
    return Exchange(groups, sent, received, gathered, _arrivals(everywhere, here, sum(gathered)))


def even_exchange(experts: int, capacity: int, groups: Groups, device: torch.device) -> Exchange:
    """The exchange where every rank sends `capacity` rows to each of the `experts` of the model: nobody is asked."""
    ep, etp, here = groups.ep_size, groups.etp_size, experts // groups.ep_size
    each = here * capacity
    counts = torch.full((here * ep * etp,), capacity, device=device)
    return Exchange(groups, [each] * ep, [each] * ep, [each * ep] * etp, _arrivals(counts, here, each * ep * etp))


def _arrivals(counts: Tensor, here: int, rows: int) -> Permutation:
    """From the order of arrival, `counts` int64 [senders x experts here], to that of the experts."""
    expert = torch.arange(here, device=counts.device).repeat(len(counts) // here)
    return sort_by_expert(expert.repeat_interleave(counts, output_size=rows).unsqueeze(-1), here)
