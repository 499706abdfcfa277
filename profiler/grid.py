"""The adaptive grid: which sizes to measure, so that few points say enough.

It begins with a coarse lattice in the logarithms of the sizes. Then, one at a time, it takes the candidate where the
interpolation is believed to be worst: the doubt there (far from all points) times the errors that the points around
have when they are left out. What was predicted is compared with what is measured: once the last few such worst places
were predicted within the target, or the time is over, the grid is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import log
from time import perf_counter

import numpy as np

from ..clusters.interpolation import Array, Kriging, Surface, based, kernel, surface
from ..clusters.shapes import work

TARGET = 0.05
PATIENCE = 5  # worst places in a row that were predicted within the target
_FEWEST = 4  # points before an interpolation is worth asking
_SHARE = 1 / 25  # of a part's budget: the most that one point may take, unless its three samples do
_SURPRISE = 3  # targets: what is this far off, and not measured surely, is measured once more

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """Measured seconds of every part of an operation at some sizes, and their widest relative interval."""

    sizes: Sizes
    seconds: tuple[float, ...]
    spread: float

    @property
    def row(self) -> tuple[float, ...]:
        """As a cluster file has it."""
        return (*self.sizes, *self.seconds, self.spread)


Measure = Callable[[Sizes, float], Point]
"""At some sizes, in at most about so many seconds where that is possible."""


@dataclass(frozen=True, slots=True)
class Space:
    """Sizes of an operation that may be measured: `axes` has those of each size, ascending; `allowed` bounds them
    together, as memory or time do."""

    name: str
    axes: tuple[tuple[int, ...], ...]
    allowed: Callable[[Sizes], bool]
    coarse: int = 2  # points of the first lattice along each axis

    def candidates(self) -> list[Sizes]:
        """All of them, in order."""
        return [sizes for sizes in product(*self.axes) if self.allowed(sizes)]

    def first(self) -> list[Sizes]:
        """The coarse lattice and the middle, in the order of work, so that a small budget sees what is cheap."""
        corners = product(*(_spread(axis, self.coarse) for axis in self.axes))
        middle = tuple(axis[len(axis) // 2] for axis in self.axes)
        found = dict.fromkeys(nearest for each in (middle, *corners) for nearest in [self._inside(each)] if nearest)
        return sorted(found, key=lambda sizes: work(self.name, sizes))

    def _inside(self, sizes: Sizes) -> Sizes | None:
        """The nearest that is allowed: the largest size comes down, step by step."""
        at = [axis.index(size) for axis, size in zip(self.axes, sizes, strict=True)]
        while not self.allowed(tuple(axis[place] for axis, place in zip(self.axes, at, strict=True))):
            largest = max(range(len(at)), key=lambda axis: at[axis])
            if at[largest] == 0:
                return None
            at[largest] -= 1
        return tuple(axis[place] for axis, place in zip(self.axes, at, strict=True))


def _spread(axis: Sequence[int], count: int) -> list[int]:
    """So many of an axis, both ends among them."""
    if count == 1 or len(axis) == 1:
        return [axis[len(axis) // 2]]
    return [axis[round(place * (len(axis) - 1) / (count - 1))] for place in range(count)]


def refine(
    space: Space,
    measure: Measure,
    budget_s: float,
    target: float = TARGET,
    clock: Callable[[], float] = perf_counter,
    at_least: int = 0,
) -> list[Point]:
    """Points of an operation, in the order in which they were measured, in about `budget_s` seconds; the first
    `at_least` of the coarse lattice whatever they take."""
    end, points = clock() + budget_s, list[Point]()
    each_s = _SHARE * budget_s
    for sizes in space.first():
        if len(points) >= at_least and clock() + _cost_s(points, space, sizes) > end:
            break
        points.append(measure(sizes, each_s))
    if len(points) < _FEWEST:
        return points
    within = 0
    for sizes, predicted in _worst(space, points, lambda: end - clock()):
        point = measure(sizes, each_s)
        error = _off(predicted, point)
        if point.spread > target / 2 and error > _SURPRISE * target and clock() < end:
            point = _lower(point, measure(sizes, each_s))
            error = _off(predicted, point)
        points.append(point)
        within = within + 1 if error <= max(target, point.spread) else 0
        if within >= PATIENCE:
            break
    return points


def _off(predicted: tuple[float, ...], point: Point) -> float:
    """The largest relative error of the parts, as a logarithm."""
    return max(abs(log(a / b)) for a, b in zip(predicted, point.seconds, strict=True))


def _lower(one: Point, other: Point) -> Point:
    """Of two measurements of one point the faster: what disturbs only ever adds."""
    seconds = tuple(min(pair) for pair in zip(one.seconds, other.seconds, strict=True))
    return replace(one, seconds=seconds, spread=min(one.spread, other.spread))


def _cost_s(points: Sequence[Point], space: Space, sizes: Sizes) -> float:
    """Of the next coarse point, at the pace of the slowest so far: too long rather than too short."""
    if not points:
        return 0.0
    paces = [sum(point.seconds) / sum(work(space.name, point.sizes)) for point in points]
    return 4 * sum(work(space.name, sizes)) * sorted(paces)[len(paces) // 2]


def _worst(space: Space, points: list[Point], left_s: Callable[[], float]) -> Iterator[tuple[Sizes, tuple[float, ...]]]:
    """The next place to measure and what is predicted there, while there is time; `points` grows meanwhile."""
    taken = {point.sizes for point in points}
    open_sizes = [sizes for sizes in space.candidates() if sizes not in taken]
    works = np.array([work(space.name, sizes) for sizes in open_sizes], dtype=float).reshape(-1, 2)
    grid = np.array(open_sizes, dtype=float).reshape(-1, len(space.axes))
    reaches: list[Array] = []
    while len(grid) and left_s() > 0:
        surfaces = _surfaces(space, points, reaches)
        place = _place(surfaces, grid, works, left_s())
        if place is None:
            return
        predicted = tuple(float(each.at(grid[[place]], works[[place]])[0]) for each in surfaces)
        sizes = tuple(int(size) for size in grid[place])
        grid, works = np.delete(grid, place, axis=0), np.delete(works, place, axis=0)
        yield sizes, predicted


def _surfaces(space: Space, points: Sequence[Point], reaches: list[Array]) -> list[Surface]:
    """One a part; the reach is found again now and then, which takes longer than all the rest."""
    sizes = np.array([point.sizes for point in points], dtype=float)
    works = np.array([work(space.name, point.sizes) for point in points], dtype=float)
    spread = np.array([point.spread for point in points])
    parts = np.array([point.seconds for point in points]).T
    if not reaches or len(points) % 8 == 0:
        reaches[:] = [surface(sizes, works, each, spread).ratio.reach for each in parts]
    return [surface(sizes, works, each, spread, reach) for each, reach in zip(parts, reaches, strict=True)]


def _place(surfaces: Sequence[Surface], grid: Array, works: Array, left_s: float) -> int | None:
    """Where the error is believed to be largest, of what there is time for; None: for nothing."""
    x = np.log2(grid)
    errors = np.max([believed(each.ratio, x) for each in surfaces], axis=0)
    costs = np.sum([based(each.bounds.base, works) for each in surfaces], axis=0)
    errors = np.where(4 * costs <= left_s, errors, -1.0)
    place = int(np.argmax(errors))
    return place if errors[place] >= 0 else None


def believed(ratio: Kriging, x: Array) -> Array:
    """Error of an interpolation at [a, sizes]: the doubt there times the typical error of the points around, each left
    out once."""
    near = kernel(x, ratio.x, 2 * ratio.reach) + 1e-6
    around = near @ np.abs(ratio.left_out()) / near.sum(axis=1)
    return np.asarray(ratio.doubt(x) * around)
