"""Mapping: the order of nodes in which a configuration is fastest.

Which node stands where decides which paths the rings of data parallelism and the borders of a pipeline take: heavy
traffic should not meet a slow path, and a node behind one belongs where it is least in the way, at an end of a pipeline
or in a stage of its own. Orders are priced as plans are. Few that differ are all priced; of many, those that bring
good paths together, and then what exchanging nodes makes better. In both cases no order of nodes inside their node
groups is faster than `bound_s`: the same configuration where every question about links is answered as in the order
that is best for it. (More bandwidth is never slower; a test holds that.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...clusters.wiring import Wiring
from ..configuration import Configuration
from ..cost.replica import replicas
from ..cost.setting import Setting
from ..cost.step import work_of
from ..schedule import build
from ..simulate.engine import step_time
from ..simulate.work import Work
from .orders import Order, Orders

Played = dict[tuple[Configuration, Work], float]
"""Seconds of steps that were played."""

EXACT = 720 * 6
"""Orders times nodes up to which all orders are priced: those of any six nodes."""
TRIED, LEAST_TRIED = 200, 16
"""Orders that are priced where there are more; fewer where each takes longer to price, because there are many nodes."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """The best order found for a configuration. `standard_s` is what the standard order takes."""

    rank_map: tuple[int, ...]
    step_s: float
    standard_s: float
    bound_s: float
    tried: int
    is_exact: bool  # no order is faster


class Mapper:
    """Finds orders for the configurations of one setting."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._wiring = Wiring(setting.cluster)
        self._orders = Orders(self._wiring, _devices(setting))

    @property
    def count(self) -> int:
        """Orders that differ."""
        return self._orders.count

    def best(self, configuration: Configuration) -> Mapping:
        """The fastest order for a configuration."""
        trial = _Trial(self, configuration)
        standard_s = trial.price(self._orders.standard)
        units = len(self._orders.standard)
        exact = self._orders.count * units <= EXACT
        trial.try_all(self._orders.every() if exact else self._orders.guesses())
        if not exact:
            trial.improve(self._orders, max(LEAST_TRIED, min(TRIED, EXACT // units)))
        found = self._orders.rank_map(trial.order)
        bound_s = trial.best_s if exact else min(trial.bound_s, trial.best_s)
        return Mapping(found, trial.best_s, standard_s, bound_s, len(trial.seen), exact or trial.is_done)

    def setting(self, rank_map: tuple[int, ...]) -> Setting:
        """The setting under a map."""
        return self._setting.mapped(rank_map, wiring=self._wiring)

    def seconds(self, setting: Setting, configuration: Configuration, known: Played) -> float:
        """Of a step; equal work is played once."""
        return max(_played_s(asked, work_of(seen, asked), known) for seen, asked in replicas(setting, configuration))

    def every(self) -> Iterator[Setting]:
        """The setting in every order that differs."""
        return map(self.mapped, self._orders.every())

    def any_order(self) -> Setting:
        """What no order is faster than."""
        return self._setting.mapped(self._orders.rank_map(self._orders.standard), any_order=True, wiring=self._wiring)

    def mapped(self, order: Order) -> Setting:
        """The setting in an order."""
        return self.setting(self._orders.rank_map(order))


def _played_s(configuration: Configuration, work: Work, known: Played) -> float:
    key = configuration, work
    if key not in known:
        known[key] = step_time(build(configuration), work).total_s
    return known[key]


class _Trial:
    """Orders of one configuration, the best so far."""

    def __init__(self, mapper: Mapper, configuration: Configuration) -> None:
        self._mapper, self._configuration = mapper, configuration
        self._known: Played = {}
        self.seen: dict[Order, float] = {}
        self.order: Order = ()
        self.best_s = float("inf")
        self.bound_s = mapper.seconds(mapper.any_order(), configuration, self._known)

    @property
    def is_done(self) -> bool:
        """Whether nothing can be faster."""
        return self.best_s <= self.bound_s * (1 + 1e-9)

    def price(self, order: Order) -> float:
        """Seconds of a step in this order, which may become the best."""
        if order not in self.seen:
            self.seen[order] = self._mapper.seconds(self._mapper.mapped(order), self._configuration, self._known)
            if self.seen[order] < self.best_s:
                self.order, self.best_s = order, self.seen[order]
        return self.seen[order]

    def try_all(self, orders: Iterable[Order]) -> None:
        """Until nothing can be faster."""
        for order in orders:
            if self.is_done:
                return
            self.price(order)

    def improve(self, orders: Orders, most: int) -> None:
        """Step to a better neighbour while there is one, `most` prices in all."""
        stands: Order = ()
        while stands != self.order and not self.is_done:
            stands = self.order
            for order in orders.neighbours(stands):
                if len(self.seen) >= most or self.order != stands:
                    break
                self.price(order)


def _devices(setting: Setting) -> tuple[int, ...]:
    topology = setting.topology
    return tuple(topology.device(rank) for rank in range(topology.num_devices))
