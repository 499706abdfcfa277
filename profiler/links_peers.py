"""Peers: the workers that are still there, and what they agree on when one of them is not.

They meet at a group of all; when that fails, over the store that every worker reaches. Whoever does not come in time is
left out from then on: what it measured stays in its own records.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from time import monotonic

import torch
from torch import distributed as dist

from .links_group import Group
from .links_shapes import Ranks


class Alone(Exception):
    """The others went on without this worker, or nobody answers."""


class Peers:
    """Workers `ranks` of which this is `rank`. `limit_s` is the longest that one operation may take."""

    def __init__(
        self, store: dist.Store, ranks: Sequence[int], rank: int, device: torch.device, limit_s: float
    ) -> None:
        self.store, self.ranks, self.rank = store, tuple(ranks), rank
        self.device, self.limit_s = device, limit_s
        self._meetings = 0
        self._all = self._whole()

    def group(self, name: str, ranks: Ranks) -> Group:
        """A new group of some of them; only they call this, and `name` stands for no other group of these ranks."""
        name = f"{self._meetings}/{name}/{'-'.join(map(str, ranks))}"
        return Group(self.store, name, ranks, self.rank, self.device, self.limit_s)

    def together(self) -> None:
        """Return when all are here. Raises RuntimeError where somebody is not."""
        self._all.together()

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of every value over all. Raises RuntimeError where somebody is not here."""
        return self._all.largest(values)

    def told(self, name: str, text: str) -> dict[int, str]:
        """What everybody has to say under a name, by rank. Raises RuntimeError where somebody is not here."""
        self.store.set(self._key(name, self.rank), text)
        self.together()
        return {rank: self.store.get(self._key(name, rank)).decode() for rank in self.ranks}

    def meet(self) -> Ranks:
        """After something failed: who is still here, by the word of the first that is. Raises Alone."""
        self._meetings += 1
        self.store.set(self._key("here", self.rank), "")
        until_s = monotonic() + 4 * self.limit_s  # all may be as late as the longest operation
        here = tuple(rank for rank in self.ranks if self._waits(self._key("here", rank), until_s))
        if here and here[0] == self.rank:
            self.store.set(self._key("go", 0), ",".join(map(str, here)))
        if not self._waits(self._key("go", 0), until_s + 4 * self.limit_s):
            raise Alone("nobody else answers")
        self._go_on(tuple(map(int, self.store.get(self._key("go", 0)).decode().split(","))))
        return self.ranks

    def only(self, ranks: Sequence[int]) -> None:
        """Go on with some of them, on which all agree. Raises Alone."""
        if tuple(ranks) != self.ranks:
            self._meetings += 1
            self._go_on(tuple(ranks))

    def _go_on(self, ranks: Ranks) -> None:
        if self.rank not in ranks or len(ranks) < 2:
            raise Alone("the others go on without this worker" if len(ranks) > 1 else "nobody else is left")
        self.ranks = ranks
        self._all = self._whole()

    def _whole(self) -> Group:
        """Of all; it waits three times as long, for those whose own operation has to time out first."""
        name = f"{self._meetings}/all/{'-'.join(map(str, self.ranks))}"
        return Group(self.store, name, self.ranks, self.rank, self.device, 3 * self.limit_s)

    def _key(self, name: str, rank: int) -> str:
        return f"links/{self._meetings}/{name}/{rank}"

    def _waits(self, key: str, until_s: float) -> bool:
        """Whether somebody writes this in time."""
        try:
            self.store.wait([key], timedelta(seconds=max(0.05, until_s - monotonic())))
        except RuntimeError:  # of which those of the store are kinds
            return False
        return True


def first_line(error: BaseException) -> str:
    """The first line of what a library says."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no words'}"[:200]
