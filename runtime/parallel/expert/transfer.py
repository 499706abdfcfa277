"""Transfer: rows on their way to other ranks, while this rank does something else.

An all-to-all is two operations, one that starts it and one that waits for what arrives, and so is its way back in the
backward pass: there the wait comes first and starts the gradients' transfer, the start waits for it. Autograd goes
through operations in the reverse of their order, so what lies between start and wait runs beside the transfer in both
directions. On CUDA a process group has a stream of its own, which starts behind the work queued so far; waiting makes
the current stream wait, not the host. Buffers are held until then, so that their memory is nobody else's before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...components import span

Way = Generator[None, None, Tensor]
"""What happens to some rows, in pieces: it stops wherever a transfer has started, before it waits for it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Rows to and from each rank of a group, in order of the ranks."""

    group: dist.ProcessGroup
    sent: list[int]
    received: list[int]

    @property
    def back(self) -> Parts:
        """The other direction."""
        return Parts(self.group, self.received, self.sent)


@dataclass(slots=True)
class _Flight:
    """What is on its way now, of one transfer: its rows forward, or their gradients backward."""

    held: list[Any] = field(default_factory=list)  # work, what is sent, what arrives

    def start(self, rows: Tensor, parts: Parts) -> Tensor:
        rows = rows.contiguous()
        arriving = rows.new_empty(sum(parts.received), *rows.shape[1:])
        work = dist.all_to_all_single(arriving, rows, parts.received, parts.sent, parts.group, async_op=True)
        self.held = [work, rows, arriving]
        return arriving

    def wait(self) -> Tensor:
        work, _, arriving = self.held
        with span("ep"):
            work.wait()
        self.held = []
        return arriving  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Pending:
    """Rows that nobody may read before `wait`."""

    rows: Tensor
    flight: _Flight
    parts: Parts

    def wait(self) -> Tensor:
        """What has arrived [rows, ...], from rank 0 first."""
        return _wait(self.rows, self.flight, self.parts)


def start(rows: Tensor, parts: Parts) -> Pending:
    """Send rows [rows, ...] away, the first ones to rank 0. Every rank of the group must start its transfers in the
    same order."""
    flight = _Flight()
    return Pending(_start(rows, flight, parts), flight, parts)


def transferred(rows: Tensor, parts: Parts) -> Way:
    """Rows that arrive for those that are sent."""
    pending = start(rows, parts)
    yield
    return pending.wait()


def together(rows: Sequence[Tensor], parts: Parts) -> Generator[None, None, list[Tensor]]:
    """The same of several tensors that belong to the same rows."""
    pending = [start(each, parts) for each in rows]
    yield
    return [each.wait() for each in pending]


def overlapped(ways: Sequence[Way]) -> list[Tensor]:
    """The ends of ways, of which a new one begins each time that all begun ones have gone a piece, newest first.

    So the first transfer of a chunk starts before the products of the chunk ahead of it, which hide it. All ranks take
    the same pieces in the same order.
    """
    ends: dict[int, Tensor] = {}
    under_way: list[int] = []
    for tick in range(len(ways)):
        under_way = _advance([tick, *under_way], ways, ends)
    while under_way:
        under_way = _advance(under_way, ways, ends)
    return [ends[number] for number in range(len(ways))]


def _advance(under_way: list[int], ways: Sequence[Way], ends: dict[int, Tensor]) -> list[int]:
    """Take each a piece on; those that are not at their end."""
    left = []
    for number in under_way:
        try:
            next(ways[number])
            left.append(number)
        except StopIteration as end:
            ends[number] = end.value
    return left


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, flight: _Flight, parts: Parts) -> Tensor:
        ctx.flight = flight
        return flight.start(rows, parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.flight.wait(), None, None


class _Wait(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, flight: _Flight, parts: Parts) -> Tensor:
        ctx.flight, ctx.back = flight, parts.back
        flight.wait()
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        ctx.flight.start(gradients[0], ctx.back)
        return gradients[0], None, None  # unread: _Start takes what arrives


_start: Callable[[Tensor, _Flight, Parts], Tensor] = _Start.apply
_wait: Callable[[Tensor, _Flight, Parts], Tensor] = _Wait.apply
