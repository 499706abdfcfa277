"""Parameters: what a fit may move, each a number that is 0 where nothing changes and grows as a step gets slower.

A scale x makes its part of the step take e^x as long; fixed seconds are counted in seconds and never negative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...clusters.adjustment import Adjustment, LinkScale
from ...units import significant

MOST = math.log(5.0)
"""Of a scale: what is five times as slow as its price is broken or not the cluster that the file describes."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """`name` as in the file. `is_fixed`: seconds that are added, not a scale. `inverse`: the file holds a rate."""

    name: str
    is_fixed: bool = False
    inverse: bool = False

    def time(self, at: float) -> float:
        """What multiplies the slope of the step: 0 at no change."""
        return at if self.is_fixed else math.expm1(at)

    def slope(self, at: float) -> float:
        """Derivative of `time`."""
        return 1.0 if self.is_fixed else math.exp(at)

    def written(self, at: float) -> float:
        """As the cluster file has it."""
        if self.is_fixed:
            return significant(at)
        return significant(math.exp(-at if self.inverse else at))


PARAMETERS = (
    Parameter("compute", inverse=True),
    Parameter("step", is_fixed=True),
    Parameter("layer", is_fixed=True),
    Parameter("network.bandwidth", inverse=True),
    Parameter("fabric.bandwidth", inverse=True),
    Parameter("network.latency"),
    Parameter("fabric.latency"),
    Parameter("overlap", inverse=True),
)
"""The plainest first: of two that explain the same runs equally well the earlier one is freed."""


def adjustment(parameters: Sequence[Parameter], at: Iterable[float], **about: Any) -> Adjustment:
    """The part of a cluster file with these values; `about`: source, date, framework, evidence."""
    values = {parameter.name: parameter.written(float(x)) for parameter, x in zip(parameters, at, strict=True)}
    links: dict[str, Any] = {kind: _link(values, kind) for kind in ("fabric", "network")}
    plain: dict[str, Any] = {name: values[name] for name in ("compute", "layer", "step", "overlap") if name in values}
    return Adjustment(**plain, **links, **about)


def _link(values: Mapping[str, float], kind: str) -> LinkScale:
    return LinkScale(**{of: values.get(f"{kind}.{of}", 1.0) for of in ("latency", "bandwidth")})
