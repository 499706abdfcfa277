"""Branches of a list: ways to share out a microbatch, each with a bound, opened only while something below may be best.

Below a branch is what `space.below` lists. The work of all microbatches, shared out over the pipeline ranks with nobody
waiting, bounds it where all devices are alike, and then what a rank with the mean number of layers has room for
(`bottleneck.crowded_s`); elsewhere nothing does, and every branch is opened.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from ..configuration import Configuration, Mesh
from ..cost.setting import Setting
from ..cost.stage import shared_cores
from ..legality import is_legal, runtime_problems
from .bottleneck import crowded_s
from .bound import Balancer, Bounded, bounded, holds
from .objective import Priced, ValueOf, price_as
from .ranks import Ranks
from .request import Progress, Request
from .space import (
    count_recipes,
    light_operations,
    lightest,
    listed_recipes,
    listed_shares,
    logits_chunks,
    recomputations,
    recomputed,
)

_ROUNDING = 1 - 1e-11
"""Sums are in another order than the interpreter's."""

Entry = tuple[float, int, int, "Configuration | Bounded"]
"""Value at least; 0 of configurations, 1 of branches whose room is known, 2 of others; order; and what it is of."""


@dataclass
class Listed:
    """A list under way. `candidates` are legal configurations seen and recipes of branches that were never opened."""

    request: Request
    setting: Setting
    value_of: ValueOf
    candidates: int = 0
    bounded: int = 0
    priced: list[Priced] = field(default_factory=list)
    shown: set[Mesh] = field(default_factory=set)  # meshes that have a price
    best: float = float("inf")

    def run(self, progress: Progress | None) -> float:
        """Price what may be best, and then until `request.top` other meshes have a price each, where so many fit.
        Returns a bound on everything in the list."""
        queue, bound = self._branches(), float("inf")
        balancer, order = Balancer(self.setting), count(len(queue))
        while queue:
            lower, level, _, entry = queue[0]
            proven = lower >= self.best * (1 - self.request.gap)
            bound = min(bound, lower) if proven else bound
            if proven and len(self.shown) > self.request.top:
                break
            heapq.heappop(queue)
            if isinstance(entry, Bounded):
                self._price(entry, proven, progress, len(queue))
            elif proven and entry.mesh in self.shown:
                self._leave(entry)
            elif level == 2 and (tighter := max(lower, self._roomy(entry))) > lower:
                heapq.heappush(queue, (tighter, 1, next(order), entry))
            else:
                for each in self._opened(entry, balancer):
                    value = max(lower, self.value_of(each.configuration, each.bound_s))
                    heapq.heappush(queue, (value, 0, next(order), each))
        for *_, entry in queue:
            if not isinstance(entry, Bounded):
                self._leave(entry)
        self.priced.sort(key=lambda result: result.value)
        return min(bound, self.best)

    def _price(self, entry: Bounded, proven: bool, progress: Progress | None, left: int) -> None:
        """Unless the gap is proven and another of its mesh has a price."""
        if proven and entry.configuration.mesh in self.shown:
            return
        self.priced.append(price_as(self.setting, entry.configuration, self.value_of))
        self.shown.add(entry.configuration.mesh)
        self.best = min(self.best, self.priced[-1].value)
        if progress:
            progress(len(self.priced), len(self.priced) + left)

    def _branches(self) -> list[Entry]:
        pins, found = self.request.pins, list[Entry]()
        for order, shared in enumerate(listed_shares(self.setting, pins)):
            found.append((self._bound(shared), 2, order, shared))
        self.bounded = len(found)
        heapq.heapify(found)
        return found

    def _bound(self, shared: Configuration) -> float:
        """Nothing below has less."""
        if not self._alike or not is_legal(self.setting, shared):
            return 0.0
        costs, choices = self.setting.costs(shared), recomputations(self.request.pins)
        ends = (costs.embedding, costs.head)
        layers_s = costs.forward[-1] + min(costs.backward[choice][-1] for choice in choices)
        whole_s = layers_s + sum(block.forward_s + block.backward_s("none") for block in ends)
        ranks, (pace, _) = shared.mesh.pp, shared_cores(self.setting, shared)
        at_once = max([ranks, *(busy * each for busy, each in enumerate(pace, 1))])  # done of what one would do alone
        return self.value_of(shared, shared.microbatches * whole_s / at_once * _ROUNDING)

    @property
    def _alike(self) -> bool:
        return not self.setting.is_mixed and self.request.objective != "energy"

    def _roomy(self, shared: Configuration) -> float:
        """Nothing below has less, as far as it has room; infinity where nothing has."""
        pins = self.request.pins
        if not self._alike or shared.mesh.pp == 1 or not is_legal(self.setting, shared):
            return 0.0
        shared = replace(
            shared, recompute_operations=light_operations(self.setting, pins) or shared.recompute_operations
        )
        chunks = logits_chunks(self.setting, pins, shared)
        light = lightest(
            self.setting, replace(pins, offload=pins.offload or 0.0), replace(shared, logits_chunks=chunks)
        )
        seconds = crowded_s(Ranks(self.setting, shared, recomputations(pins), None, light))
        seconds /= max((1.0, *shared_cores(self.setting, shared)[0]))
        return seconds if seconds == float("inf") else self.value_of(shared, seconds)

    def _opened(self, shared: Configuration, balancer: Balancer) -> Iterator[Bounded]:
        """What is legal below a branch and fits, with layers balanced."""
        setting, runnable = self.setting, self.request.runnable
        for recipe in listed_recipes(setting, self.request.pins, shared):
            for configuration in recomputed(setting, self.request.pins, recipe):
                if not is_legal(setting, configuration) or (runnable and runtime_problems(setting, configuration)):
                    continue
                self.candidates += 1
                balanced = balancer.balanced(configuration)
                if holds(setting, balanced):
                    yield bounded(setting, balanced)
                    if self._alike:  # to recompute more is no faster
                        break

    def _leave(self, shared: Configuration) -> None:
        pins = self.request.pins
        self.candidates += count_recipes(self.setting, pins, shared) * len(recomputations(pins))
