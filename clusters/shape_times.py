"""ShapeTimes: the measured shapes of a device, ready to be asked for the seconds of an operation at any sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from .features import law
from .interpolation import Array, surface
from .shapes import COMPUTE_BOUND, Operation, Shapes, work

Predictor = Callable[[tuple[float, ...]], float]


class ShapeTimes:
    """Answers are kept: a search asks for the same few sizes over and over."""

    def __init__(self, shapes: Shapes, peak_flops: float, memory_bandwidth_bytes_per_s: float):
        """`peak_flops` and the bandwidth are those of the device now: what was measured scales with them."""
        self._by_name = {each.name: predictors(each) for each in shapes.operations if each.chosen != "curve"}
        compute = shapes.peak_flops / peak_flops
        memory = shapes.memory_bandwidth_bytes_per_s / memory_bandwidth_bytes_per_s
        self._scales = {name: compute if name in COMPUTE_BOUND else memory for name in self._by_name}
        self._known: dict[tuple[str, tuple[float, ...]], tuple[float, ...]] = {}

    def has(self, name: str) -> bool:
        """Whether this operation has times of its own."""
        return name in self._by_name

    def seconds(self, name: str, *sizes: float) -> tuple[float, ...] | None:
        """Of each part of an operation, in the order of `KINDS`; None where the device's curve and rates say it."""
        key = name, sizes
        found = self._known.get(key)
        if found is None and name in self._by_name:
            at = tuple(max(1.0, size) for size in sizes)
            found = tuple(self._scales[name] * each(at) for each in self._by_name[name])
            self._known[key] = found
        return found


@cache
def shape_times(shapes: Shapes, peak_flops: float, memory_bandwidth_bytes_per_s: float) -> ShapeTimes:
    """One for each device, so that its answers are shared."""
    return ShapeTimes(shapes, peak_flops, memory_bandwidth_bytes_per_s)


def predictors(operation: Operation) -> list[Predictor]:
    """One for each part, by table or by regression as the operation says."""
    name, (sizes, works, seconds, spread) = operation.name, arrays(operation)
    if operation.chosen == "regression":
        fits = zip(seconds.T, operation.regression, strict=True)
        return [_asked(name, law(sizes, works, each, operation.thresholds, own.coefficients).at) for each, own in fits]
    return [_asked(name, surface(sizes, works, each, spread, operation.reach).at) for each in seconds.T]


def arrays(operation: Operation) -> tuple[Array, Array, Array, Array]:
    """Sizes [n, sizes], works [n, 2], seconds [n, parts] and spreads [n] of the points."""
    rows = operation.rows()
    sizes = np.array([each for each, _, _ in rows], dtype=float)
    works = np.array([work(operation.name, each) for each, _, _ in rows], dtype=float)
    return sizes, works, np.array([each for _, each, _ in rows]), np.array([each for _, _, each in rows])


def _asked(name: str, at: Callable[[Array, Array], Array]) -> Predictor:
    def predict(sizes: tuple[float, ...]) -> float:
        return float(at(np.array([sizes]), np.array([work(name, sizes)]))[0])

    return predict
