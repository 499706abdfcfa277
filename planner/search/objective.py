"""Objective: what the best plan has least of, and what that says of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import InputError
from ..configuration import Configuration
from ..cost.setting import Setting
from ..cost.step import price
from ..explain import Objective
from ..plan import Prediction

ValueOf = Callable[[Configuration, float], float]
"""From a configuration and its step time, or a lower bound on that, to what is minimised."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A configuration with its prediction and what the objective says of it (lower is better)."""

    configuration: Configuration
    predicted: Prediction
    value: float


def measure(setting: Setting, objective: Objective) -> ValueOf:
    """From a configuration and its step time to what is minimised: seconds, or dollars a step."""
    if objective == "time":
        return lambda configuration, step_s: step_s
    unpriced = [group.name for group in setting.cluster.node_groups if group.price_per_device_hour is None]
    if unpriced:
        rule = f"node group {unpriced[0]} has no price_per_device_hour"
        raise InputError.single(setting.cluster.name, "--objective", objective, rule, "--objective time")
    return lambda configuration, step_s: step_s * setting.dollars_per_s(configuration.mesh.world)


def price_as(setting: Setting, configuration: Configuration, value_of: ValueOf) -> Priced:
    """With its price and what the objective says of it."""
    predicted = price(setting, configuration)
    return Priced(configuration, predicted, value_of(configuration, predicted.step_time_s))
