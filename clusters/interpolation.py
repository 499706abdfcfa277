"""Interpolation of measured seconds over the logarithms of sizes.

What is interpolated is the logarithm of the time over a base, constant + operations / rate + elements / rate, that is
fitted to the same points: smooth over many octaves, so that few points say much. Between the points kriging with an
unknown mean and a Matern 3/2 kernel (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections
2.7 and 4.2): through every point, up to the spread that was measured there, and back to the mean far from all of them.
Beyond the points nothing is faster or slower, in terms of the base, than what was measured somewhere, and nothing
anywhere faster than the best rates that were: the roofline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STEADY = 1e-9  # added to a diagonal: a matrix of points that lie close stays invertible
_REACHES = (1.0, 2.0, 4.0, 8.0, 16.0)  # octaves


def base_of(works: Array, seconds: Array) -> Array:
    """Constant, seconds per operation and per element, none below zero, [3]: the least squares of relative errors.
    `works` [points, 2]. With three unknowns every choice of those above zero is tried."""
    columns = np.column_stack([np.ones(len(works)), works]) / seconds[:, None]
    best = np.array([float(np.median(seconds)), 0.0, 0.0])
    least = float(np.sum((columns @ best - 1) ** 2))
    for count in (1, 2, 3):
        for used in combinations([place for place in range(3) if columns[:, place].any()], count):
            found = np.linalg.lstsq(columns[:, used], np.ones(len(works)), rcond=None)[0]
            error = float(np.sum((columns[:, used] @ found - 1) ** 2))
            if (found > 0).all() and error < least:
                least, best = error, np.zeros(3)
                best[list(used)] = found
    return best


def based(base: Array, works: Array) -> Array:
    """Seconds by the base, [points], of `works` [points, 2]."""
    return np.asarray(base[0] + works @ base[1:])


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """What measured points say of all others."""

    base: Array  # constant, seconds per operation and per element
    least: float  # logarithm of seconds over the base
    most: float
    roof: Array  # operations and elements per second, the best

    def seconds(self, ratios: Array, works: Array) -> Array:
        """Seconds [a] from logarithms over the base [a] and works [a, 2]."""
        found = based(self.base, works) * np.exp(np.clip(ratios, self.least, self.most))
        return np.asarray(np.maximum(found, (works / self.roof).max(axis=1)))


def bounds_of(works: Array, seconds: Array) -> Bounds:
    """Of points with `works` [n, 2] that take `seconds` [n]."""
    base = base_of(works, seconds)
    ratios = np.log(seconds / based(base, works))
    best = (works / seconds[:, None]).max(axis=0)
    return Bounds(base, float(ratios.min()), float(ratios.max()), np.where(best > 0, best, np.inf))


def kernel(one: Array, other: Array, reach: Array) -> Array:
    """Correlation of two sets of points [a, sizes], [b, sizes] (octaves): [a, b]."""
    distance = np.sqrt(3 * np.square((one[:, None] - other[None]) / reach).sum(axis=2))
    return np.asarray((1 + distance) * np.exp(-distance))


@dataclass(frozen=True, slots=True, eq=False)
class Kriging:
    """Points x [n, sizes] and what is known there, ready to be asked."""

    x: Array
    reach: Array
    mean: float
    weights: Array  # [n]
    inverse: Array  # of the covariance over the variance: [n, n]
    own: Array  # diagonal of the inverse, the mean taken out: [n]
    scale: float  # standard deviation of the values around their mean

    def at(self, x: Array) -> Array:
        """Values at [a, sizes]: [a]."""
        return np.asarray(self.mean + kernel(x, self.x, self.reach) @ self.weights)

    def left_out(self) -> Array:
        """Of every point, its value less what the others say, the mean found again without it: closed form (Dubrule
        1983, Mathematical Geology 15, 687-699)."""
        return np.asarray(self.weights / self.own)

    def doubt(self, x: Array) -> Array:
        """Standard deviation at [a, sizes] over that of the values, [a]: 0 at a point, about 1 far from all."""
        near = kernel(x, self.x, self.reach)
        return np.sqrt(np.clip(1 - ((near @ self.inverse) * near).sum(axis=1), 0.0, None))


def krige(x: Array, values: Array, spread: Array, reach: Array) -> Kriging:
    """Through values [n] at x [n, sizes], up to a standard error of `spread` [n] each."""
    scale = max(float(np.std(values)), 1e-3)
    covariance = kernel(x, x, reach) + np.diag(np.square(spread / scale) + _STEADY)
    inverse = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
    rows = inverse.sum(axis=1)
    mean = float(rows @ values / rows.sum())
    own = np.asarray(np.diag(inverse) - np.square(rows) / rows.sum())
    return Kriging(x, reach, mean, np.asarray(inverse @ (values - mean)), inverse, own, scale)


def best_reach(x: Array, values: Array, spread: Array) -> Array:
    """Octaves over which a point speaks, by size: those that leave the least error at points that are left out."""
    reach = np.full(x.shape[1], 4.0)
    for _ in range(2):
        for axis in range(x.shape[1]):
            reach = min((_with(reach, axis, each) for each in _REACHES), key=lambda r: _error(x, values, spread, r))
    return reach


def _with(reach: Array, axis: int, octaves: float) -> Array:
    changed = reach.copy()
    changed[axis] = octaves
    return changed


def _error(x: Array, values: Array, spread: Array, reach: Array) -> float:
    return float(np.mean(np.abs(krige(x, values, spread, reach).left_out())))


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Seconds of one part of an operation, anywhere."""

    sizes: Array  # [n, sizes]
    seconds: Array  # [n]
    bounds: Bounds
    ratio: Kriging  # logarithm of seconds over the base

    def at(self, sizes: Array, works: Array) -> Array:
        """Seconds at [a, sizes], whose `works` are [a, 2]: [a]."""
        found = self.bounds.seconds(self.ratio.at(np.log2(sizes)), works)
        return np.array([self._between(row, each) for row, each in zip(sizes, found, strict=True)])

    def _between(self, sizes: Array, seconds: float) -> float:
        """No faster than a measured point with no size above these, no slower than one with none below; where the
        points themselves break that, as they say."""
        below = self.seconds[(self.sizes <= sizes).all(axis=1)].max(initial=0.0)
        above = self.seconds[(self.sizes >= sizes).all(axis=1)].min(initial=np.inf)
        return float(min(max(seconds, below), above)) if below <= above else float(seconds)


def surface(
    sizes: Array, works: Array, seconds: Array, spread: Array, reach: Sequence[float] | Array | None = None
) -> Surface:
    """Through seconds [n] at sizes [n, sizes], each with a relative `spread`; the reach is found if not given."""
    bounds = bounds_of(works, seconds)
    values, x = np.log(seconds / based(bounds.base, works)), np.log2(sizes)
    known = best_reach(x, values, spread) if reach is None else np.asarray(reach, dtype=float)
    return Surface(sizes, seconds, bounds, krige(x, values, spread, known))
