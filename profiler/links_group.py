"""Group: some workers that communicate, with a time limit of their own for every operation.

Groups are made directly, not by `torch.distributed.new_group`: only their members take part, so that a worker that is
gone does not stop the others from making new ones, and a pair that fails takes no other pair with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch
from torch import distributed as dist

from ..clusters.link_costs import Operation

ELEMENT_BYTES = 4
_Call = Callable[[], object]


class Group:
    """The process group of `ranks`, of which this worker is one; `name` is new for every group of a store.

    Raises RuntimeError where members cannot reach each other within `limit_s`, as every operation does.
    """

    def __init__(
        self, store: Any, name: str, ranks: Sequence[int], rank: int, device: torch.device, limit_s: float
    ) -> None:
        self.ranks, self.device, self.place = tuple(ranks), device, tuple(ranks).index(rank)
        shared = dist.PrefixStore(f"links/{name}", store)  # type: ignore[attr-defined]
        limit = timedelta(seconds=limit_s)
        backend: Any
        if device.type == "cuda":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = limit
            backend = dist.ProcessGroupNCCL(shared, self.place, len(ranks), options)
        else:
            backend = dist.ProcessGroupGloo(shared, self.place, len(ranks), limit)
        self._backend = backend
        self._posts_first = device.type != "cuda"  # NCCL runs what it is given in order: a receive would wait for ever
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def together(self) -> None:
        """Return when all members are here."""
        self.largest([0.0])

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of every value over the members."""
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        options: Any = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MAX
        self._backend.allreduce([shared], options).wait()
        return [float(value) for value in shared.tolist()]

    def calls(self, operation: Operation, size_bytes: int) -> tuple[_Call, int]:
        """A call that does the operation once on every member, and the bytes of its whole buffer."""
        members = len(self.ranks)
        even = 1 if operation in ("send", "broadcast", "all_reduce") else members
        elements = max(even, size_bytes // ELEMENT_BYTES // even * even)
        whole, other = self._pair_of(elements)
        part, backend = torch.zeros(elements // even, device=self.device), self._backend
        calls: dict[Operation, _Call] = {
            "all_reduce": lambda: backend.allreduce([whole]).wait(),
            "all_gather": lambda: backend._allgather_base(whole, part).wait(),
            "reduce_scatter": lambda: backend._reduce_scatter_base(part, whole).wait(),
            "all_to_all": lambda: backend.alltoall_base(other, whole, [], []).wait(),
            "broadcast": lambda: self._broadcast(whole),
            "send": lambda: self.there_and_back(whole, other),
        }
        return calls[operation], elements * ELEMENT_BYTES

    def _pair_of(self, elements: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two buffers, the same for all operations of this size."""
        if elements not in self._buffers:
            zeros = torch.zeros(elements, device=self.device)
            self._buffers[elements] = zeros, torch.zeros_like(zeros)
        return self._buffers[elements]

    def _broadcast(self, tensor: torch.Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        self._backend.broadcast([tensor], options).wait()

    def there_and_back(self, sent: torch.Tensor, received: torch.Tensor) -> None:
        """A message from the first member to the last and one back; the others have nothing to do.

        Receives are posted before anything is sent: on gloo a notice that a buffer is ready may queue behind the
        peer's own data.
        """
        last = len(self.ranks) - 1
        if self.place not in (0, last):
            return
        self._exchange(self.place == 0, sent, received, last if self.place == 0 else 0, 0)

    def answered(self, sender: int, size_bytes: int) -> float:
        """Seconds until the sender (a place in a pair) has an answer of a few bytes to a message of so many."""
        whole, _ = self._pair_of(max(1, size_bytes // ELEMENT_BYTES))
        small, _ = self._pair_of(1)
        self.together()
        begin = perf_counter()
        if self.place == sender:
            self._exchange(True, whole, small, 1 - self.place, 1)
        else:
            self._exchange(False, small, whole, 1 - self.place, 1)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter() - begin

    def crossing(self, size_bytes: int, messages: int) -> list[float]:
        """Seconds from one arrival to the next of so many messages from the other one of a pair, while as many go
        there; on gloo one begins where the last one ends, NCCL waits for each."""
        peer, arrivals = 1 - self.place, list[float]()
        if self._posts_first:
            expected = [self.receiving(size_bytes, peer, 1) for _ in range(messages)]
            self.together()
            sent = [self.sending(size_bytes, peer, 1) for _ in range(messages)]
            for wait in expected:
                wait()
                arrivals.append(perf_counter())
            for wait in sent:
                wait()
        else:
            self.together()
            arrivals = [self._crossed(size_bytes, peer) for _ in range(messages)]
        return [after - before for before, after in pairwise(arrivals)]

    def _crossed(self, size_bytes: int, peer: int) -> float:
        """When two messages of NCCL have crossed: in one group of calls, or each end would wait for the other."""
        whole, other = self._pair_of(max(1, size_bytes // ELEMENT_BYTES))
        self._backend._start_coalescing()
        self._backend.recv([other], peer, 1)
        self._backend.send([whole], peer, 1)
        self._backend._end_coalescing().wait()
        torch.cuda.synchronize(self.device)
        return perf_counter()

    def receiving(self, size_bytes: int, peer: int, tag: int) -> _Call:
        """A message of so many bytes from a place in the group, expected from now on; the call waits for it. Nobody
        looks at what comes, so that all have one buffer."""
        work = self._backend.recv([self._pair_of(max(1, size_bytes // ELEMENT_BYTES))[1]], peer, tag)
        return work.wait  # type: ignore[no-any-return]

    def sending(self, size_bytes: int, peer: int, tag: int) -> _Call:
        """The same on its way to a place; the call waits until it has left."""
        work = self._backend.send([self._pair_of(max(1, size_bytes // ELEMENT_BYTES))[0]], peer, tag)
        return work.wait  # type: ignore[no-any-return]

    def _exchange(self, first: bool, sent: torch.Tensor, received: torch.Tensor, peer: int, tag: int) -> None:
        """Send and then receive, or where the peer is first the other way round."""
        arrival = self._backend.recv([received], peer, tag) if self._posts_first or not first else None
        if arrival is not None and not first:
            arrival.wait()
        self._backend.send([sent], peer, tag).wait()
        if first:
            (arrival or self._backend.recv([received], peer, tag)).wait()
