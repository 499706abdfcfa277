"""Bound: what no assignment of a step's sequences takes less than.

Area. A group of d lanes takes at least a + b T + its attention, for any line under the cost of T tokens a lane with
a, b >= 0, and holds at most C tokens a lane, so that a >= a T / C. Its d lanes spend d times that, and all lanes of all
rounds are there for R times the step: the sum over sequences of the least d ((b + a / C) tokens + core) over R. This is
the optimum of the linear programme in which sequences may be cut into shares over degrees and rounds. No group of the
step takes longer than the step itself, so that it is the least S for which degrees that alone take S or less ask for
S times R.

Longest. Some round holds the sequence that takes longest even alone in its best group. Rounds: the tokens ask for so
many, and each takes at least what the cheapest pack does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from .instance import Floats, Instance

ROUNDING = 1e-9
CLOSE = 1e-4
"""How far below the smallest step the search for it ends."""

Line = tuple[float, float]
"""Intercept and slope, seconds and seconds a token."""


def lower_bound_s(instance: Instance) -> float:
    """Seconds of a step at least."""
    if instance.count == 0:
        return 0.0
    alone = instance.alone_s()
    further_s = (least_rounds(instance) - 1) * float(alone.min())
    longest_s = float(alone.min(axis=1).max()) + further_s
    return max(longest_s, *(_area_s(instance, line, alone, further_s) for line in lines(instance)))


def _area_s(instance: Instance, line: Line, alone: Floats, further_s: float) -> float:
    """The shortest step whose lanes have time for everything. A group that alone takes longer than the step, less its
    other rounds, is in none: the shorter the step, the more lane-seconds its sequences ask for."""
    intercept_s, slope_s = line
    each = (slope_s + intercept_s / instance.capacity) * instance.tokens + instance.core_s
    areas = np.where(instance.fits, instance.widths * each, np.inf)

    def asked_s(step_s: float) -> float:
        possible = np.where(alone <= step_s - further_s, areas, np.inf)
        return float(possible.min(axis=1).sum()) / instance.lanes

    low, high = float(areas.min(axis=1).sum()) / instance.lanes, math.inf
    if asked_s(low * (1 + ROUNDING)) <= low * (1 + ROUNDING):
        return low
    while high - low > CLOSE * low:
        middle = 2 * low if math.isinf(high) else (low + high) / 2
        low, high = (low, middle) if asked_s(middle) <= middle else (middle, high)
    return low


def least_rounds(instance: Instance) -> int:
    """Rounds that all tokens need, if they could be spread evenly."""
    share = np.where(instance.fits, instance.widths * instance.tokens / instance.capacity, np.inf)
    return max(1, math.ceil(float(share.min(axis=1).sum()) / instance.lanes - ROUNDING))


def lines(instance: Instance) -> Iterator[Line]:
    """Intercepts and slopes, none below zero, of lines under `linear_s` up to the largest capacity: the edges of its
    lower convex hull, and its lowest value."""
    most = float(instance.capacity.max())
    knots = np.append(instance.knots[instance.knots < most], most)
    heights = np.interp(knots, instance.knots, instance.linear_s)
    yield max(0.0, float(heights[0])), 0.0
    hull: list[int] = []
    for place in range(len(knots)):
        while len(hull) > 1 and _slope(knots, heights, hull[-1], place) <= _slope(knots, heights, hull[-2], hull[-1]):
            hull.pop()
        hull.append(place)
    for start, end in pairwise(hull):
        slope = _slope(knots, heights, start, end)
        intercept = float(heights[start] - slope * knots[start])
        if intercept < 0:  # through the origin, under every point
            yield 0.0, float(np.min(heights / knots))
        else:
            yield intercept, slope


def _slope(knots: Floats, heights: Floats, start: int, end: int) -> float:
    return float((heights[end] - heights[start]) / (knots[end] - knots[start]))
