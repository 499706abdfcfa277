"""Learned: from measured points to the shapes of a cluster file, by the best of table, regression and curve.

Each is judged by its error at points that it has not seen: the points are dealt into folds, and each fold is predicted
from the others. The curve is the device's own and has seen none of them but through its bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from ..clusters.features import law
from ..clusters.interpolation import Array, base_of, based, best_reach, surface
from ..clusters.schema import Device, Dtype
from ..clusters.shapes import KINDS, Choice, feature_count, work
from ..planner.cost.operations import by_rates
from ..planner.cost.rates import PLAIN, Rates, device_rates
from ..units import significant
from .parts import Found

FOLDS = 8
FEWEST = 5  # points of an operation that are worth a table

Fit = Callable[[Array, Array, Array, Array], Callable[[Array, Array], Array]]
"""From sizes [n, sizes], works [n, 2], seconds [n] and spreads [n] to a predictor of seconds from sizes and works."""


def shapes_mapping(
    rows: Sequence[Mapping[str, Sequence[Sequence[float]]]],
    device: Mapping[str, Any],
    dtype: Dtype,
    caches: Sequence[float],
) -> dict[str, Any] | None:
    """`Calibration.shapes` as a mapping, from the rows of every worker; None where too few were measured. `device` is
    the device without shapes, `caches` the bytes of its caches."""
    described = Device.model_validate(device)
    rates = device_rates(described, "fp32" if dtype == "fp32" else "bf16", PLAIN)
    names = [name for name in KINDS if any(name in each for each in rows)]
    merged = {name: merge(name, [row for each in rows for row in each.get(name, ())]) for name in names}
    operations = [
        operation(name, points, [each / rates.element_bytes for each in caches], rates)
        for name, points in merged.items()
        if len(points) >= FEWEST
    ]
    if not operations:
        return None
    return {
        "dtype": dtype,
        "peak_flops": described.peak_flops[dtype],
        "memory_bandwidth": described.memory_bandwidth_bytes_per_s,
        "operations": operations,
    }


def assemble(cluster: dict[str, Any], found: Found) -> None:
    """`shapes` of every device of a cluster, from what its own workers measured."""
    for number, group in enumerate(cluster["node_groups"]):
        results = found.of("kernels", number)
        if not results:
            continue
        dtype, caches = results[0]["dtype"], results[0]["caches_bytes"]
        shapes = shapes_mapping([each["rows"] for each in results], group["device"], dtype, caches)
        if shapes is not None:
            group["device"]["calibration"]["shapes"] = shapes


def merge(name: str, rows: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """One row for each sizes, in their order: medians over workers, the widest spread."""
    first, by_sizes = len(KINDS[name].sizes), dict[tuple[float, ...], list[Sequence[float]]]()
    for row in rows:
        by_sizes.setdefault(tuple(row[:first]), []).append(row[first:])
    return [
        (*sizes, *(median(column) for column in list(zip(*found, strict=True))[:-1]), max(each[-1] for each in found))
        for sizes, found in sorted(by_sizes.items())
    ]


def operation(
    name: str, points: Sequence[tuple[float, ...]], thresholds: Sequence[float], rates: Rates | None
) -> dict[str, Any]:
    """One operation of the file: its points, the regression, the errors of all three, and the choice."""
    kind, table = KINDS[name], np.array(points)
    first = len(kind.sizes)
    sizes, seconds, spread = table[:, :first], table[:, first:-1], table[:, -1]
    works = np.array([work(name, row) for row in sizes])
    used = [each for each in thresholds if works[:, 1].min() < each < works[:, 1].max()]
    reach = _reach(sizes, works, seconds, spread)
    errors = judged(name, (sizes, works, seconds, spread), used, rates)
    known = {choice: error for choice, error in errors.items() if error is not None}
    found: dict[str, Any] = {
        "name": name,
        "sizes": list(kind.sizes),
        "parts": list(kind.parts),
        "chosen": min(known, key=lambda choice: known[choice]),
        "errors": {choice: _short(error) for choice, error in known.items()},
        "reach": [float(each) for each in reach],
    }
    if "regression" in known:
        found["thresholds"] = [float(each) for each in used]
        fits = (law(sizes, works, each, used).coefficients for each in seconds.T)
        found["regression"] = [
            {"part": part, "coefficients": [float(f"{each:.9g}") for each in fit]}
            for part, fit in zip(kind.parts, fits, strict=True)
        ]
    return found | {"points": [_row(row, first) for row in points]}


def _reach(sizes: Array, works: Array, seconds: Array, spread: Array) -> Array:
    """One for all parts: the geometric mean, to the octave."""
    x = np.log2(sizes)
    each = [best_reach(x, np.log(part / based(base_of(works, part), works)), spread) for part in seconds.T]
    return np.asarray(2.0 ** np.round(np.mean(np.log2(each), axis=0)))


def judged(
    name: str, points: tuple[Array, Array, Array, Array], thresholds: Sequence[float], rates: Rates | None
) -> dict[Choice, float | None]:
    """Errors of the three at points that they have not seen; None where one cannot be."""
    sizes, works, seconds, spread = points
    enough = len(sizes) - -(-len(sizes) // FOLDS) > feature_count(sizes.shape[1], len(thresholds)) / 2

    def tabled(s: Array, w: Array, t: Array, e: Array) -> Callable[[Array, Array], Array]:
        return surface(s, w, t, e).at

    def regressed(s: Array, w: Array, t: Array, _: Array) -> Callable[[Array, Array], Array]:
        return law(s, w, t, thresholds).at

    return {
        "table": left_out_error(sizes, works, seconds, spread, tabled),
        "regression": left_out_error(sizes, works, seconds, spread, regressed) if enough else None,
        "curve": _curve_error(name, sizes, seconds, rates),
    }


def left_out_error(sizes: Array, works: Array, seconds: Array, spread: Array, fit: Fit) -> float:
    """Mean absolute logarithm of predicted over measured, each fold predicted from the others."""
    fold = np.arange(len(sizes)) % min(FOLDS, len(sizes))
    errors = []
    for number in range(int(fold.max()) + 1):
        seen, hidden = fold != number, fold == number
        for part in seconds.T:
            at = fit(sizes[seen], works[seen], part[seen], spread[seen])
            errors.append(np.abs(np.log(at(sizes[hidden], works[hidden]) / part[hidden])))
    return float(np.mean(np.concatenate(errors)))


def _curve_error(name: str, sizes: Array, seconds: Array, rates: Rates | None) -> float | None:
    found = [by_rates(rates, name, tuple(row)) for row in sizes.tolist()] if rates is not None else [None]
    if any(each is None for each in found):
        return None
    return float(np.mean(np.abs(np.log(np.array(found, dtype=float) / seconds))))


def _row(row: Sequence[float], first: int) -> list[float]:
    """Sizes whole, seconds to four digits, the spread to two."""
    sizes, seconds, spread = row[:first], row[first:-1], row[-1]
    return [*(int(each) for each in sizes), *(significant(each) for each in seconds), significant(spread, 2)]


def _short(error: float) -> float:
    return significant(error, 3)
