"""Bound: what no assignment of a step's sequences takes less than.

Area. A group of d lanes takes at least a + b T + its attention, for any line under the cost of T tokens a lane with
a, b >= 0, and holds at most C tokens a lane, so that a >= a T / C. Its d lanes spend d times that, and all lanes of all
rounds are there for R times the step: the sum over sequences of the least d ((b + a / C) tokens + core) over R. This is
the optimum of the linear programme in which sequences may be cut into shares over degrees and rounds.

Longest. Some round holds the sequence that takes longest even alone in its best group. Rounds: the tokens ask for so
many, and each takes at least what the cheapest pack does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .instance import Instance

ROUNDING = 1e-9


def lower_bound_s(instance: Instance) -> float:
    """Seconds of a step at least."""
    if instance.count == 0:
        return 0.0
    longest = float(instance.alone_s().min(axis=1).max())
    return max(area_s(instance), longest + (least_rounds(instance) - 1) * least_s(instance))


def area_s(instance: Instance) -> float:
    """What all lanes have to do, evenly spread: for the best line."""
    return max(float(np.min(_areas(instance, *line), axis=1).sum()) for line in lines(instance)) / instance.lanes


def _areas(instance: Instance, intercept_s: float, slope_s: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Lane-seconds of each sequence in groups of each degree, [n, k]; infinite where it does not fit."""
    each = (slope_s + intercept_s / instance.capacity) * instance.tokens + instance.core_s
    return np.where(instance.fits, instance.widths * each, np.inf)


def least_rounds(instance: Instance) -> int:
    """Rounds that all tokens need, if they could be spread evenly."""
    share = np.where(instance.fits, instance.widths * instance.tokens / instance.capacity, np.inf)
    return max(1, math.ceil(float(share.min(axis=1).sum()) / instance.lanes - ROUNDING))


def least_s(instance: Instance) -> float:
    """Seconds of the round that takes least: that of the cheapest sequence alone."""
    return float(instance.alone_s().min())


def lines(instance: Instance) -> Iterator[tuple[float, float]]:
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
    for start, end in zip(hull, hull[1:], strict=False):
        slope = _slope(knots, heights, start, end)
        intercept = float(heights[start] - slope * knots[start])
        if intercept < 0:  # through the origin, under every point
            yield 0.0, float(np.min(heights / knots))
        else:
            yield intercept, slope


def _slope(
    knots: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    heights: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    start: int,
    end: int,
) -> float:
    return float((heights[end] - heights[start]) / (knots[end] - knots[start]))
