"""Peers: the workers that are still there, and what they agree on when one of them is not.

They meet at a group of all; when that fails, over the store that every worker reaches. Whoever does not come in time is
left out from then on: what it measured stays in its own records.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from time import monotonic
from typing import Any

import torch

from .links_group import Group
from .links_shapes import Ranks, rounds, without_dead

_TRIES = 4
"""How often gloo tries to connect, each time for as long as an operation may take."""
_LEAST_TRY_S = 1.0


class Alone(Exception):
    """The others went on without this worker, or nobody answers."""


class Peers:
    """Workers `ranks` of which this is `rank`. `limit_s` is the longest that one operation may take."""

    def __init__(self, store: Any, ranks: Sequence[int], rank: int, device: torch.device, limit_s: float) -> None:
        self.store, self.ranks, self.rank = store, tuple(ranks), rank
        self.device, self.limit_s = device, limit_s
        self._meetings = 0
        self._all = self._whole()

    def group(self, name: str, ranks: Ranks, limit_s: float | None = None) -> Group:
        """A new group of some of them; only they call this, and `name` stands for no other group of these ranks."""
        name = f"{self._meetings}/{name}/{'-'.join(map(str, ranks))}"
        return Group(self.store, name, ranks, self.rank, self.device, limit_s or self.limit_s)

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
        """After something failed: who is still here, by the word of the first that is, and reaches all others that are.
        Raises Alone."""
        self._meetings += 1
        self.store.set(self._key("here", self.rank), "")
        until_s = monotonic() + 4 * self.limit_s  # all may be as late as the longest operation
        here = tuple(rank for rank in self.ranks if self._waits(self._key("here", rank), until_s))
        if here and here[0] == self.rank:
            self.store.set(self._key("go", 0), ",".join(map(str, here)))
        if not self._waits(self._key("go", 0), until_s + 4 * self.limit_s):
            raise Alone("nobody else answers")
        said = tuple(map(int, self.store.get(self._key("go", 0)).decode().split(",")))
        self._go_on(self._joined(said) if self.rank in said else said)
        return self.ranks

    def _joined(self, here: Ranks) -> Ranks:
        """Those of which every two reach each other: a link may be gone between two that are both here."""
        dead = []
        for number, pairs in enumerate(rounds(here)):
            own = next((pair for pair in pairs if self.rank in pair), None)
            if own is not None and not self._reaches(f"try {number}", own):
                dead.append(own)
            self._written(f"tried {number}", here, "")
        told = self._written("dead", here, json.dumps(dead))
        return tuple(without_dead(here, [(a, b) for text in told for a, b in json.loads(text)]))

    def _reaches(self, name: str, own: Ranks) -> bool:
        try:
            self.group(name, own, max(_LEAST_TRY_S, self.limit_s / _TRIES)).together()
        except RuntimeError:
            return False
        return True

    def _written(self, name: str, ranks: Ranks, own: str) -> list[str]:
        """What all of them write under a name, in their order. Raises RuntimeError where somebody does not."""
        self.store.set(self._key(name, self.rank), own)
        keys = [self._key(name, rank) for rank in ranks]
        self.store.wait(keys, timedelta(seconds=8 * self.limit_s))
        return [self.store.get(key).decode() for key in keys]

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
