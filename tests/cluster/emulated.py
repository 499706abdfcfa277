"""The tier without privileges: groups whose calls are real but tiny, and last as long as a formula says.

What is emulated: the time of every message and collective, from the rates of the scenario alone (rings at their
narrowest path, Thakur et al. 2005; what gloo adds to these: a reduce-scatter moves as much as an all-reduce, and a
broadcast goes down a tree). What is real: processes, gloo's calls, who waits for whom, clocks, timeouts. Concurrent
traffic does not slow anything here but by the scenario's rates, which are those while all that can cross an uplink do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from time import perf_counter

import torch

from meshwright.clusters.link_costs import Operation, moved_bytes, steps
from meshwright.profiler.links_group import Group
from meshwright.profiler.links_peers import Peers

from .compute import sleep_until
from .scenario import Scenario

LATENCY_S = 0.001
"""Above what a tiny call over loopback takes on a busy machine, so that it can be kept."""
_TINY_BYTES = 8


class EmulatedPeers(Peers):
    """Workers whose groups have a scenario's network."""

    scenario: Scenario

    def group(self, name: str, ranks: tuple[int, ...], limit_s: float | None = None) -> Group:
        """A new group over the emulated network."""
        name = f"{self._meetings}/{name}/{'-'.join(map(str, ranks))}"
        limit_s = limit_s or self.limit_s
        return EmulatedGroup(self.scenario, self.store, name, ranks, self.rank, self.device, limit_s)


class EmulatedGroup(Group):
    """Its members stand on the hosts of the same numbers."""

    def __init__(
        self,
        scenario: Scenario,
        store: torch.distributed.Store,
        name: str,
        ranks: Sequence[int],
        rank: int,
        device: torch.device,
        limit_s: float,
    ) -> None:
        super().__init__(store, name, ranks, rank, device, limit_s)
        self._scenario = scenario
        self._free_s: dict[int, float] = {}  # until when the way to each place is busy
        ring = zip(ranks, [*ranks[1:], ranks[0]], strict=True)
        self._ring = min(scenario.bytes_per_s(a, b) for a, b in ring if a != b)

    def calls(self, operation: Operation, size_bytes: int) -> tuple[Callable[[], object], int]:
        """As `Group.calls`: all members begin when the last is there, and end when the formula says."""
        if operation == "send":
            return lambda: self._both_ways(size_bytes), size_bytes
        seconds = self._seconds(operation, size_bytes)
        return lambda: sleep_until(self.largest([perf_counter()])[0] + seconds), size_bytes

    def answered(self, sender: int, size_bytes: int) -> float:
        """As `Group.answered`."""
        self.together()
        begin = perf_counter()
        if self.place == sender:
            self.sending(size_bytes, 1 - self.place, 1)()
            self.receiving(_TINY_BYTES, 1 - self.place, 1)()
        else:
            self.receiving(size_bytes, 1 - self.place, 1)()
            self.sending(_TINY_BYTES, 1 - self.place, 1)()
        return perf_counter() - begin

    def sending(self, size_bytes: int, peer: int, tag: int) -> Callable[[], object]:
        """The real message is the time at which the emulated one arrives; it has left when the call returns."""
        rate = self._scenario.bytes_per_s(self.ranks[self.place], self.ranks[peer])
        begin = max(perf_counter(), self._free_s.get(peer, 0.0))
        self._free_s[peer] = begin + size_bytes / rate
        arrives = torch.tensor([self._free_s[peer] + LATENCY_S], dtype=torch.float64)
        work = self._backend.send([arrives], peer, tag)
        return lambda: (work.wait(), arrives)

    def receiving(self, size_bytes: int, peer: int, tag: int) -> Callable[[], object]:
        """Until the emulated message is there."""
        arrives = torch.zeros(1, dtype=torch.float64)
        work = self._backend.recv([arrives], peer, tag)

        def wait() -> None:
            work.wait()
            sleep_until(float(arrives.item()))

        return wait

    def _both_ways(self, size_bytes: int) -> None:
        last = len(self.ranks) - 1
        if self.place == 0:
            self.sending(size_bytes, last, 0)()
            self.receiving(size_bytes, last, 0)()
        elif self.place == last:
            self.receiving(size_bytes, 0, 0)()
            self.sending(size_bytes, 0, 0)()

    def _seconds(self, operation: Operation, size_bytes: int) -> float:
        members = len(self.ranks)
        if operation == "broadcast":
            return math.ceil(math.log2(members)) * (LATENCY_S + size_bytes / self._ring)
        moved = moved_bytes(operation, members, size_bytes) * (2 if operation == "reduce_scatter" else 1)
        return steps(operation, members) * LATENCY_S + moved / self._ring
