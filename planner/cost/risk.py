"""Risk: the step time that is not exceeded with some probability, and the memory that is there with it.

Figures are fitted on published runs by `planner/published/risk.py`, which says how and prints them. They transfer what
was seen of other frameworks to the interval of the one that a plan is priced as.

- Step time. The interval of a prediction is that of its framework on its device (wider where nothing was measured
  there). Errors grow with the share of a step that communicates: that of a plan is as much wider or narrower as its
  share is beside the mean run's.
- Memory. Of nanotron's runs that need a given share of the device by this memory model, with every cached segment given
  back, so many ran.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..plan import Breakdown, Prediction
from .interval import MEASURED
from .setting import Setting

EXCHANGED = ("tp", "cp", "ep", "pp", "dp", "offload")
"""Causes of a step's time that are communication."""

STILL, MORE, MOST = 0.67, 6.48, 0.13
"""Width of ln(measured / predicted) over that of the mean run: STILL where nothing is communicated, and MORE times the
share that is, up to MOST (1,947 complete runs, nanotron's left out; halves of them give 0.68, 6.25, 0.13 and
0.67, 6.37, 0.14)."""

QUANTILES = {0.5: 0.0, 0.6: 0.09, 0.7: 0.21, 0.8: 0.40, 0.9: 0.77, 0.95: 1.0, 0.98: 1.37, 0.99: 1.72}
"""Quantiles of ln(measured / predicted) over its width: above the median, over the distance of the 95th percentile,
where intervals end, from it."""

MIDDLE, SCALE = 0.852, 0.050
"""A run that needs this share of the device fits with probability one half; a logistic curve (3,151 runs of nanotron
that ran or failed; halves of them give 0.858, 0.044 and 0.846, 0.058)."""

LEAST, GREATEST = min(QUANTILES), max(QUANTILES)


@dataclass(frozen=True, slots=True)
class Risk:
    """What holds with a probability, from LEAST to GREATEST."""

    probability: float

    @property
    def memory_share(self) -> float:
        """Of each device, what a plan may need at most."""
        return MIDDLE - SCALE * _logit(self.probability)

    def step_time_s(self, predicted: Prediction) -> float:
        """Not exceeded with the probability."""
        high = predicted.step_time_interval_s[1] / predicted.step_time_s
        return predicted.step_time_s * self._factor(high, exchanged(predicted.breakdown_s))

    def least_factor(self, setting: Setting) -> float:
        """Of any plan in a setting, over its predicted step time."""
        groups = setting.cluster.node_groups
        highs = [setting.framework.spread_on(group.device).high for group in groups]
        measured = [MEASURED.high for group in groups if group.device.calibration.origin == "measured"]
        return self._factor(min(*highs, *measured, math.inf), 0.0)

    def _factor(self, high: float, share: float) -> float:
        import numpy as np  # which takes a while, and few plans are judged by their risk

        logits = [_logit(each) for each in QUANTILES]
        quantile = float(np.interp(_logit(self.probability), logits, list(QUANTILES.values())))
        return math.exp(math.log(high) * quantile * (STILL + MORE * min(MOST, share)))


def exchanged(breakdown: Breakdown) -> float:
    """Share of a step that communicates."""
    parts = breakdown.model_dump()
    return float(sum(parts[name] for name in EXCHANGED) / breakdown.total)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
