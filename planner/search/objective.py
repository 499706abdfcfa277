"""Objective: what the best plan has least of, and what that says of a configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..configuration import Configuration, Mesh
from ..cost.energy import busy_of, least_busy_of, step_energy
from ..cost.risk import Risk
from ..cost.setting import Setting
from ..cost.step import price
from ..goal import Objective
from ..plan import Prediction

LATE = 1e18
"""What stands before the value of a step that misses the deadline: more than any step costs. Of two that miss it the
faster one is better, so that a search which finds none in time has found the fastest."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What is minimised: seconds, US dollars or joules of a step. Above `limit_s` a step misses the deadline. With
    `risk` steps count as long as they are not exceeded with its probability."""

    setting: Setting
    objective: Objective
    limit_s: float = math.inf
    risk: Risk | None = None

    def __call__(self, configuration: Configuration, step_s: float) -> float:
        """At least the value of a configuration where its step takes at least `step_s`; never falls with it. It holds
        for every one with the same mesh, sharding and microbatches."""
        if self.risk:
            step_s *= self.risk.least_factor(self.setting)
        if self.objective != "energy" or self._late(step_s):
            return self._of_seconds(configuration, step_s)
        return self._joules(configuration, step_s, least_busy_of(self.setting, configuration))

    def of(self, configuration: Configuration, predicted: Prediction) -> float:
        """The value of a configuration that was priced."""
        step_s = self.risk.step_time_s(predicted) if self.risk else predicted.step_time_s
        if self.objective != "energy" or self._late(step_s):
            return self._of_seconds(configuration, step_s)
        return self._joules(configuration, step_s, busy_of(self.setting, configuration))

    def _late(self, step_s: float) -> bool:
        return step_s > self.limit_s

    def _of_seconds(self, configuration: Configuration, step_s: float) -> float:
        if self._late(step_s):
            return LATE * step_s / self.limit_s
        if self.objective == "cost":
            return step_s * self.setting.dollars_per_s(configuration.mesh.world)
        return step_s

    def _joules(self, configuration: Configuration, step_s: float, busy_s: list[float]) -> float:
        found = step_energy(self.setting.devices_used(configuration.mesh.world), configuration.mesh, step_s, busy_s)
        if found is None:
            raise ValueError("the cluster has no power of its devices")  # refused before the search begins
        return found.step_j


ValueOf = Measure
"""From a configuration and its step time, or a lower bound on that, to what is minimised."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A configuration with its prediction and what the objective says of it (lower is better)."""

    configuration: Configuration
    predicted: Prediction
    value: float


def price_as(setting: Setting, configuration: Configuration, value_of: ValueOf) -> Priced:
    """With its price and what the objective says of it."""
    predicted = price(setting, configuration)
    return Priced(configuration, predicted, value_of.of(configuration, predicted))


def best_of_each_mesh(priced: Iterable[Priced]) -> Iterator[Priced]:
    """The first of each mesh."""
    seen: set[Mesh] = set()
    for result in priced:
        if result.configuration.mesh not in seen:
            seen.add(result.configuration.mesh)
            yield result
