"""Transfer: how blocks travel between the ranks of a context-parallel group. All of its communication is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ... import collectives
from ...components import span


@dataclass(slots=True)
class Pending:
    """Blocks on their way; what is sent must live until it has arrived."""

    sent: Sequence[Tensor]
    received: list[Tensor]
    works: list[Any] = field(default_factory=list)

    def wait(self) -> list[Tensor]:
        """The received blocks."""
        with span("cp"):
            for work in self.works:
                work.wait()
        return self.received


def pass_on(blocks: Sequence[Tensor], step: int, group: dist.ProcessGroup) -> Pending:
    """Send blocks to the rank `step` places on, and receive as many, of the same shapes, from the one as far behind."""
    if step % group.size() == 0:
        return Pending(blocks, list(blocks))
    into = [torch.empty_like(block, memory_format=torch.contiguous_format) for block in blocks]
    return exchange(blocks, step, into, -step, group)


def exchange(blocks: Sequence[Tensor], to: int, into: list[Tensor], source: int, group: dist.ProcessGroup) -> Pending:
    """Send `blocks` to the rank `to` places on, receive `into` from the one `source` places on; both may be empty.

    Returns at once: the links work while this rank computes. Every pair of ranks must post its messages in one order.
    """
    rank, size = group.rank(), group.size()
    sent = [block.contiguous() for block in blocks]
    send = [dist.P2POp(dist.isend, block, group=group, group_peer=(rank + to) % size) for block in sent]
    receive = [dist.P2POp(dist.irecv, block, group=group, group_peer=(rank + source) % size) for block in into]
    works = dist.batch_isend_irecv([*send, *receive]) if send or receive else []
    return Pending(sent, into, works)


def all_gather(block: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Blocks [...] of all ranks: [ranks, ...]."""
    return collectives.all_gather(block.unsqueeze(0).contiguous(), 0, group, "cp")


def reduce_scatter(blocks: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over all ranks of what each has for this rank in `blocks` [ranks, ...]."""
    return collectives.reduce_scatter(blocks.contiguous(), 0, group, "cp").squeeze(0)


def all_to_all(blocks: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Send `blocks[r]` to rank r; what the ranks sent here, [ranks, ...]."""
    received = torch.empty_like(blocks, memory_format=torch.contiguous_format)
    with span("cp"):
        dist.all_to_all_single(received, blocks.contiguous(), group=group)
    return received
