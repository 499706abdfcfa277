"""Sheet: what each parameter adds to the step of each run, near a point.

A step is a longest path through its work, so that with k parameters it is close to

    seconds(x) = base + sum over k of slope_k * time_k(x_k)            (one row a run)

exact while the same path stays the longest. Slopes are taken as secants of real prices, and taken anew where a fit has
arrived, so that the line is only ever trusted near it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .observation import Observation
from .parameter import Parameter, adjustment

Vector = NDArray[np.float64]
Rows = NDArray[np.int64]

SCALE_STEP = math.log(1.2)
"""A fifth slower: far beyond rounding, near enough for the longest path to stay."""

FIXED_SHARE = 0.1
"""Of the step, that fixed seconds are tried with."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Runs along the first axis, parameters along the second; seconds."""

    measured_s: Vector
    base_s: Vector
    slopes_s: Vector
    parameters: tuple[Parameter, ...]
    width: float  # of the intervals, as a standard deviation of a logarithm
    groups: tuple[str, ...]

    def of(self, rows: Rows) -> Sheet:
        """Some of the runs."""
        groups = tuple(self.groups[row] for row in rows)
        parts = {name: getattr(self, name)[rows] for name in ("measured_s", "base_s", "slopes_s")}
        return replace(self, groups=groups, **parts)

    def predicted_s(self, at: Vector, rows: Rows | None = None) -> Vector:
        """Seconds of every run (or of `rows`) at a point."""
        chosen = slice(None) if rows is None else rows
        times = np.array([parameter.time(x) for parameter, x in zip(self.parameters, at, strict=True)])
        seconds: Vector = self.base_s[chosen] + self.slopes_s[chosen] @ times
        return np.maximum(seconds, 1e-3 * self.base_s[chosen])

    def residuals(self, at: Vector, rows: Rows | None = None) -> Vector:
        """Logarithms of predicted over measured."""
        chosen = slice(None) if rows is None else rows
        return np.log(self.predicted_s(at, rows) / self.measured_s[chosen])


def sheet(observations: Sequence[Observation], parameters: Sequence[Parameter]) -> Sheet:
    """Secants at no change."""
    return around(observations, parameters, np.zeros(len(parameters)))


def around(
    observations: Sequence[Observation], parameters: Sequence[Parameter], at: Vector, only: Sequence[int] = ()
) -> Sheet:
    """Secants at a point; of the parameters in `only` alone where any are named, the others slope nowhere."""
    base = np.array([each.predicted_s(adjustment(parameters, at, **_NOBODY)) for each in observations])
    slopes = np.zeros((len(observations), len(parameters)))
    for column in only or range(len(parameters)):
        slopes[:, column] = _secants(observations, parameters, at, column, base)
    times = np.array([parameter.time(x) for parameter, x in zip(parameters, at, strict=True)])
    return Sheet(
        measured_s=np.array([each.measured_s for each in observations]),
        base_s=base - slopes @ times,
        slopes_s=slopes,
        parameters=tuple(parameters),
        width=float(np.median([each.width for each in observations])),
        groups=tuple(each.group for each in observations),
    )


_NOBODY = {"source": "a trial", "date": "2000-01-01"}


def _secants(
    observations: Sequence[Observation], parameters: Sequence[Parameter], at: Vector, column: int, base: Vector
) -> Vector:
    parameter = parameters[column]
    found = []
    for observation, seconds in zip(observations, base, strict=True):
        there = at.copy()
        there[column] += FIXED_SHARE * seconds / _times(observation, parameter) if parameter.is_fixed else SCALE_STEP
        then = observation.predicted_s(adjustment(parameters, there, **_NOBODY))
        moved = parameter.written(there[column]) - parameter.written(at[column]) if parameter.is_fixed else None
        found.append((then - seconds) / (moved or parameter.time(there[column]) - parameter.time(at[column])))
    slopes: Vector = np.maximum(np.array(found), 0.0)
    return slopes


def _times(observation: Observation, parameter: Parameter) -> float:
    """How often fixed seconds come in a step, about."""
    if parameter.name == "step":
        return 1.0
    configuration = observation.configuration
    return configuration.microbatches * max(1.0, len(observation.setting.architecture.layers) / configuration.mesh.pp)
