"""Observation: a run that was measured, and what the planner needs to predict it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ...clusters.adjustment import Adjustment
from ..configuration import Configuration
from ..cost.setting import Setting
from ..cost.step import price, step_s

STEP = "step"

SETTLED = (4, 5)
"""Microbatches over pipeline ranks, between which each further one adds the same."""


@dataclass(frozen=True, slots=True)
class Observation:
    """`name` for people; what was measured of the same `group` is of one configuration, and held out together. `of`:
    the step, or a part of it as a prediction breaks it down, where the run timed its parts."""

    name: str
    group: str
    setting: Setting
    configuration: Configuration
    measured_s: float
    of: str = STEP

    def predicted_s(self, adjustment: Adjustment | None = None) -> float:
        """Step time under an adjustment of the cluster, or without one."""
        if adjustment is not None:
            adjustment = adjustment.model_copy(update={"framework": self.setting.framework.name})
        cluster = self.setting.cluster.model_copy(update={"adjustment": adjustment})
        setting = Setting(
            self.setting.architecture,
            cluster,
            self.setting.job,
            framework=self.setting.framework,
            narrow=self.setting.narrow,
            rank_map=self.setting.rank_map,
            routing=self.setting.routing,
        )
        if self.of == STEP:
            return settled_step_s(setting, self.configuration)
        return float(getattr(price(setting, self.configuration).breakdown_s, self.of))

    @property
    def width(self) -> float:
        """Of the interval of a step, as the standard deviation of a logarithm: 90 % lie inside."""
        spread = self.setting.spread
        return math.log(spread.high / spread.low) / (2 * 1.645)


def settled_step_s(setting: Setting, configuration: Configuration) -> float:
    """`step_s`, of many microbatches by as few as it takes until each further round of the pipeline adds the same."""
    pp, count = configuration.mesh.pp, configuration.microbatches
    fewer, more = (each * pp + count % pp for each in SETTLED)
    if count <= more or configuration.shares or configuration.actions:
        return step_s(setting, configuration)
    before_s, then_s = (step_s(setting, replace(configuration, microbatches=each)) for each in (fewer, more))
    return then_s + (then_s - before_s) * (count - more) / (more - fewer)
