"""Features of an operation's sizes, and a ridge regression of the logarithm of its seconds on them.

A constant, the logarithm of the base (clusters/interpolation.py), that of each size, all products of two of these, and
for each threshold of elements moved, as caches have them, what the logarithm exceeds it by: a bend. Ridge after Hoerl
and Kennard 1970; its strength is the one with the least error at points that are left out, in closed form (PRESS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from .interpolation import Array, Bounds, based, bounds_of

_STRENGTHS = tuple(10.0**power for power in range(-6, 3))  # of the penalty, over features of unit variance


def features(sizes: Array, works: Array, base: Array, thresholds: Sequence[float]) -> Array:
    """[n, features] of sizes [n, sizes] with `works` [n, 2]."""
    logs = np.log2(sizes)
    pairs = combinations_with_replacement(range(logs.shape[1]), 2)
    bends = (np.maximum(0.0, np.log2(works[:, 1] / each)) for each in thresholds)
    products = (logs[:, a] * logs[:, b] for a, b in pairs)
    return np.column_stack([np.ones(len(logs)), np.log(based(base, works)), *logs.T, *products, *bends])


def ridge(columns: Array, values: Array) -> Array:
    """Coefficients [features] for values [n] from columns [n, features], the first of which is constant."""
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    used = scale > 1e-9 * (1 + np.abs(centre))
    standard, mean = (columns[:, used] - centre[used]) / scale[used], values.mean()
    left, singular, right = np.linalg.svd(standard, full_matrices=False)
    inside = left.T @ (values - mean)
    strength = min(_STRENGTHS, key=lambda each: _left_out(left, singular, inside, values - mean, len(values) * each))
    slopes = right.T @ (singular / (singular**2 + len(values) * strength) * inside)
    found = np.zeros(columns.shape[1])
    found[used] = slopes / scale[used]
    found[0] = mean - centre[used] @ found[used]
    return np.asarray(found, dtype=np.float64)


def _left_out(left: Array, singular: Array, inside: Array, values: Array, penalty: float) -> float:
    """Mean absolute error at points that are left out."""
    shrunk = singular**2 / (singular**2 + penalty)
    hat = np.square(left) @ shrunk + 1 / len(values)
    return float(np.mean(np.abs((values - left @ (shrunk * inside)) / np.maximum(1 - hat, 1e-6))))


@dataclass(frozen=True, slots=True, eq=False)
class Law:
    """Seconds of one part of an operation by a regression."""

    bounds: Bounds
    thresholds: tuple[float, ...]
    coefficients: Array

    def at(self, sizes: Array, works: Array) -> Array:
        """Seconds at [a, sizes], whose `works` are [a, 2]: [a]. Never faster or slower over the base than measured."""
        base = self.bounds.base
        found = features(sizes, works, base, self.thresholds) @ self.coefficients
        return self.bounds.seconds(found - np.log(based(base, works)), works)


def law(
    sizes: Array, works: Array, seconds: Array, thresholds: Sequence[float], known: Sequence[float] | None = None
) -> Law:
    """Through about seconds [n] at sizes [n, sizes]; with `known` coefficients, or fitted."""
    bounds = bounds_of(works, seconds)
    if known is None:
        coefficients = ridge(features(sizes, works, bounds.base, thresholds), np.log(seconds))
    else:
        coefficients = np.asarray(known, dtype=float)
    return Law(bounds, tuple(thresholds), coefficients)
