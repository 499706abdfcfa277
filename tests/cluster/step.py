"""One training step of a plan on the testbed: its schedule and its traffic for real, its compute by sleep.

Every rank goes through the actions of its pipeline rank. Activations and their gradients go to the neighbours while it
computes on; receives are posted before anything is sent. After its last backward it sums its gradients with its
data-parallel group, one bucket a layer, as on processors that compute and communicate with the same cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from meshwright.profiler.links_group import Group
from meshwright.profiler.links_peers import Peers

from .compute import compute


@dataclass(frozen=True, slots=True)
class VirtualStep:
    """What a step is: a mesh of pp x dp ranks in rank order on `hosts`, and by pipeline rank what each does."""

    pp: int
    dp: int
    hosts: tuple[int, ...]  # of every rank, dp fastest
    actions: tuple[tuple[tuple[str, int], ...], ...]  # F or B of a microbatch
    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    message_bytes: int
    buckets_bytes: tuple[tuple[int, ...], ...]  # the gradients of a layer each
    optimizer_s: tuple[float, ...]

    @property
    def smallest_bucket_bytes(self) -> int:
        """Of all; 0 without data parallelism."""
        return min((size for sizes in self.buckets_bytes for size in sizes), default=0) if self.dp > 1 else 0


def seconds_of_steps(peers: Peers, steps: list[VirtualStep], rounds: int) -> list[list[float]]:
    """Seconds of every step, the slowest rank's, round by round: the steps take turns. The first round warms up."""
    players = [_Player(peers, step, str(index)) for index, step in enumerate(steps)]
    taken: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for player, seconds in zip(players, taken, strict=True):
            found = peers.largest([player.play()])[0]
            if number:
                seconds.append(found)
    return taken


class _Player:
    """One host in one step."""

    def __init__(self, peers: Peers, step: VirtualStep, name: str) -> None:
        self._peers, self._step = peers, step
        rank = step.hosts.index(peers.rank) if peers.rank in step.hosts else None
        self._idle = rank is None
        if rank is None:
            return
        self._stage, replica = divmod(rank, step.dp)
        stage = self._stage
        before, after = (
            step.hosts[other] if 0 <= other < len(step.hosts) else None for other in (rank - step.dp, rank + step.dp)
        )
        self._before = None if before is None else peers.group(f"border {name} {replica}", (before, peers.rank))
        self._after = None if after is None else peers.group(f"border {name} {replica}", (peers.rank, after))
        self._buckets: list[Callable[[], object]] = []
        if step.dp > 1:
            ranks = step.hosts[stage * step.dp : (stage + 1) * step.dp]
            data = peers.group(f"data {name}", ranks)
            self._buckets = [data.calls("all_reduce", size)[0] for size in step.buckets_bytes[stage]]

    def play(self) -> float:
        """Seconds from when all are ready until this rank is done."""
        if self._idle:
            self._peers.together()
            return 0.0
        step, stage, sent = self._step, self._stage, list[Callable[[], object]]()
        arrivals = dict(self._expected())
        self._peers.together()
        begin = perf_counter()
        for kind, microbatch in step.actions[stage]:
            if wait := arrivals.get((kind, microbatch)):
                wait()
            compute(step.forward_s[stage] if kind == "F" else step.backward_s[stage])
            group, peer = (self._after, 1) if kind == "F" else (self._before, 0)
            if group is not None:
                sent.append(group.sending(step.message_bytes, peer, _tag(kind, microbatch)))
        for reduce in self._buckets:
            reduce()
        compute(step.optimizer_s[stage])
        seconds = perf_counter() - begin
        for wait in sent:
            wait()
        return seconds

    def _expected(self) -> list[tuple[tuple[str, int], Callable[[], object]]]:
        """All receives of the step, posted."""
        found = []
        ways: list[tuple[str, Group | None, int]] = [("F", self._before, 0), ("B", self._after, 1)]
        for kind, group, peer in ways:
            for action in self._step.actions[self._stage]:
                if group is not None and action[0] == kind:
                    wait = group.receiving(self._step.message_bytes, peer, _tag(kind, action[1]))
                    found.append((action, wait))
        return found


def _tag(kind: str, microbatch: int) -> int:
    return 2 * microbatch + (kind == "B")
