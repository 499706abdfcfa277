"""Balance and bound a legal configuration: what can be said of it without playing its schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..configuration import Configuration, Recompute
from ..cost.bound import lower_bound_s
from ..cost.footprint import fits_host, rank_peak, resident_bytes
from ..cost.setting import Setting
from ..cost.sharding import Sharding, sharding_of
from .mixed import MixedBalancer, end_s, layers_s
from .partition import balanced_split, even_split


@dataclass(frozen=True, slots=True)
class Bounded:
    """A configuration that is legal and fits, and the time it takes at least."""

    configuration: Configuration
    bound_s: float


class Balancer:
    """Splits layers over stages so that the slowest stage is fastest; equal questions are answered once."""

    def __init__(self, setting: Setting):
        self._setting = setting
        self._known: dict[tuple[Sharding, Recompute, int], tuple[int, ...]] = {}
        self._mixed = MixedBalancer(setting)

    def balanced(self, configuration: Configuration) -> Configuration:
        """The configuration with its layers balanced; all its ranks recompute alike."""
        if self._setting.is_mixed:
            return self._mixed.balanced(configuration)
        stages, choice = configuration.stages, configuration.recompute[0]
        key = sharding_of(configuration), choice, stages
        if key not in self._known:
            self._known[key] = self._split(configuration, stages, choice)
        return replace(configuration, stage_layers=self._known[key])

    def _split(self, configuration: Configuration, stages: int, choice: Recompute) -> tuple[int, ...]:
        costs = self._setting.costs(configuration)
        if stages == 1:
            return even_split(len(costs.layers), 1)
        return balanced_split(layers_s(costs, choice), stages, *map(end_s, (costs.embedding, costs.head)))


def holds(setting: Setting, configuration: Configuration) -> bool:
    """Whether every device holds its part, and every host what is offloaded to it."""
    return fits_devices(setting, configuration) and fits_host(setting, configuration)


def fits_devices(setting: Setting, configuration: Configuration) -> bool:
    """Whether every device holds its part. Ranks likely to be fullest are looked at first."""
    ranks = configuration.mesh.pp
    order = dict.fromkeys((0, ranks - 1, *range(ranks)))
    if resident_bytes(setting, configuration, 0) > setting.at(configuration, 0).memory_limit_bytes:
        return False
    return all(rank_peak(setting, configuration, rank).fits for rank in order)


def bounded(setting: Setting, configuration: Configuration) -> Bounded:
    """With its lower bound."""
    return Bounded(configuration, lower_bound_s(setting, configuration))
