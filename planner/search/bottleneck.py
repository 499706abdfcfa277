"""Bottleneck: the least time of a step over all splits of layers and all choices of recomputation, per pipeline rank.

A rank computes every microbatch, and before its first one and after its last one waits for the stages before it. Ranks
are independent but for the layers that they share out, so that a threshold says how many layers each can take at most;
the least threshold under which all layers are taken is found by bisection. With one stage a rank, layers are taken from
the front, each rank as many as it can: what a rank has to wait for grows by what it is spared of, so that nothing is
gained by leaving a layer. That is exact in the seconds below; with several stages a rank only the number of layers is
shared out, not which: a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

from ..configuration import Recompute
from .ranks import Ranks

TOLERANCE = 1e-4
"""Relative, of the threshold: the bound is lower by as much at the most."""
_ROUNDING = 1 - 1e-11


class Bottleneck:
    """The threshold problem of one recipe; `limited`: ranks must have room for what they take."""

    def __init__(self, ranks: Ranks, limited: bool):
        self.ranks, self.limited = ranks, limited
        self.microbatches = ranks.recipe.microbatches

    def relaxed_s(self) -> float:
        """The same in closed form, where layers could be split anywhere and there were room. With one stage a rank: let
        all ranks be busy to the last moment; rank r has computed the m-th part of what rank r - 1 had left."""
        ranks, m, alone_s = self.ranks, self.microbatches, self.ranks.least_s - self.ranks.count * self.ranks.passes_s
        if ranks.plain:
            share = 1.0 if ranks.whole else ranks.forward_share
            return (m * ranks.passes_s + alone_s * share / (1 - (1 - share / m) ** ranks.count)) * _ROUNDING
        beside = sum(map(sum, self._besides_s))
        return (m * ranks.least_s + beside) / ranks.count * _ROUNDING

    def least_s(self, limit_s: float) -> float:
        """Seconds of the least step time, or infinity where ranks have no room. Nobody asks how far above `limit_s` it
        is, nor whether there is room then: that is the answer."""
        low, high = self.relaxed_s(), limit_s
        if low >= limit_s:
            return low
        if not self.feasible(limit_s):
            return limit_s
        if self.feasible(low):
            return low
        if math.isinf(limit_s):
            high = 1.1 * low
            while not self.feasible(high):
                low, high = high, 1.5 * high
        while high - low > TOLERANCE * high:
            middle = (low + high) / 2
            low, high = (low, middle) if self.feasible(middle) else (middle, high)
        return low

    def feasible(self, limit_s: float) -> bool:
        """Whether all layers are taken when no rank may need longer."""
        if self.ranks.plain:
            return self.fill(limit_s) is not None
        return all(self._enough(among, count, limit_s) for among, count in self.ranks.kinds) and (
            math.isinf(limit_s) or len(self.ranks.kinds) == 1 or self._enough_time(limit_s)
        )

    def _enough(self, among: Ranks, count: int, limit_s: float) -> bool:
        """Whether the layers of one kind are taken by ranks that take no others. What there is time for is looked at
        before what there is room for."""
        ranks = range(self.ranks.count)
        most = [min(self.ranks.chunks(rank) * among.most, count) for rank in ranks]
        if self.limited:
            most = [self.take(rank, 0, most[rank], limit_s, among, limited=False)[0] for rank in ranks]
        alone, spare = len(self.ranks.kinds) == 1, sum(most) - count
        for rank in ranks if spare >= 0 else ():
            fewest = self.ranks.chunks(rank) if alone else 0
            layers = self.take(rank, 0, most[rank], limit_s, among, needed=max(fewest, most[rank] - spare))[0]
            spare -= most[rank] - layers
            if spare < 0 or layers < fewest:
                return False
        return spare >= 0

    def _enough_time(self, limit_s: float) -> bool:
        """Whether ranks have the time for layers of all kinds, if nothing is recomputed that need not be."""
        spare = sum(max(0.0, limit_s - sum(beside_s)) for beside_s in self._besides_s)
        return spare >= self.microbatches * self.ranks.least_s

    def fill(self, limit_s: float) -> list[tuple[int, Recompute]] | None:
        """Layers and recomputation of each rank, filled from the front; None where layers are left over."""
        return self._filled(0, 0, limit_s)

    def completes(self, rank: int, start: int, limit_s: float) -> bool:
        """Whether ranks from `rank` on take all layers from `start` on."""
        return self._filled(rank, start, limit_s) is not None

    def _filled(self, first: int, start: int, limit_s: float) -> list[tuple[int, Recompute]] | None:
        ranks, found, each = self.ranks, list[tuple[int, Recompute]](), self._at_most(limit_s)
        for rank in range(first, ranks.count):
            left = ranks.count - rank - 1
            if start + (left + 1) * each < ranks.layers:
                return None
            layers, choice = self.take(rank, start, ranks.layers - start - left, limit_s)
            if layers < 1:
                return None
            found.append((layers, choice))
            start += layers
        return found if start == ranks.layers else None

    def _at_most(self, limit_s: float) -> int:
        """Layers that no rank with one stage can have more of, by its time alone; all, where layers differ."""
        ranks = self.ranks
        return ranks.layers if len(ranks.kinds) > 1 else ranks.bare(limit_s / self.microbatches / _ROUNDING)

    def take(
        self,
        rank: int,
        start: int,
        at_most: int,
        limit_s: float,
        among: Ranks | None = None,
        limited: bool = True,
        needed: int = 0,
    ) -> tuple[int, Recompute]:
        """The most layers that a rank can take from `start` on, and the fastest choice with which it can; of one kind
        alone, where `among` says so. Fewer than `needed` are as good as none."""
        among, late_s = among or self.ranks, self.ranks.waits.late_s
        best, chosen = 0, among.choices[0]
        before_s, after_s = self._beside_s(rank, start) if self.ranks.plain else self._besides_s[rank]
        spare_s = (limit_s - before_s - after_s) / self.microbatches
        for choice in among.choices:
            layers = min(at_most, among.in_time(rank, start, choice, spare_s))
            if late_s * layers > after_s:
                layers = last(lambda n, c=choice: self._late_s(among, rank, start, n, c) <= limit_s, layers)  # type: ignore[misc]
            if layers <= best or layers < needed:
                break
            if self.limited and limited:
                layers = among.with_room(rank, start, layers, choice, needed if needed > best else 0)
            if layers > best:
                best, chosen = layers, choice
        return best, chosen

    def _late_s(self, among: Ranks, rank: int, start: int, layers: int, choice: Recompute) -> float:
        """Until the gradients of a rank are whole where all of them are reduced late."""
        busy_s = self.microbatches * among.busy_s(rank, start, choice, layers)
        return self._beside_s(rank, start)[0] + busy_s + self.ranks.waits.late_s * layers

    def _before(self, rank: int, start: int) -> int:
        """Layers that stand before a rank's first stage, at the least."""
        ranks = self.ranks
        if ranks.plain:
            return start
        stages, first = len(ranks.places), ranks.firsts[rank]
        return max(first, ranks.layers - (stages - first) * ranks.most)

    @cached_property
    def _besides_s(self) -> list[tuple[float, float]]:
        """Of each rank, where several stages a rank leave open what stands before it."""
        return [self._beside_s(rank, 0) for rank in range(self.ranks.count)]

    def _beside_s(self, rank: int, start: int) -> tuple[float, float]:
        """Before a rank's first microbatch, and after its last one until the gradients of all before it are whole."""
        ranks = self.ranks
        forward_s, backward_s = ranks.lead_s(rank, self._before(rank, start))
        gather_s, reduce_s = ranks.waits.gather_s, ranks.waits.reduce_s
        return max(forward_s, gather_s), reduce_s + (backward_s if ranks.whole else 0.0)


def crowded_s(ranks: Ranks) -> float:
    """Seconds of the least step time under any placement: one rank has as many layers of a kind as the mean, whichever
    rank it is, and recomputes them if it has to. Infinity where none has room for them. Asked of ranks without ends."""
    found, middle = [0.0], 1
    for among, count in ranks.kinds:
        layers = -(-count // ranks.count)
        roomy = (choice for choice in among.choices if among.has_room(middle, 0, layers, choice))
        busy = (among.alone_s(layers, choice) for choice in roomy)
        found.append(ranks.recipe.microbatches * next(busy, math.inf))
    return max(found) * _ROUNDING


def last(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits, if all below one that fits do too; 0 where none does."""
    if most < 1 or fits(most):
        return max(0, most)
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
