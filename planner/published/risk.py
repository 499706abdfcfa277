"""Fit what `planner/cost/risk.py` knows of the errors of step times and of memory, on published runs.

    python -m meshwright.planner.published.risk tests/published/runs.csv

Step times: |ln(measured / predicted)| of complete rows grows with the share of a step that communicates, up to some
share, by least squares; how errors over that width are distributed gives the quantiles. nanotron's rows are left out: a
third of them stalled for reasons that no part of a step explains (docs/log.md).

Memory: nanotron's rows alone, the one source that also has the runs that failed. How many ran, by what their tensors
fill of the device, over how many ran of those that fill less than half (others fail too): the likeliest logistic curve.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import MeshwrightError
from ..cost.footprint import STUCK
from ..cost.risk import QUANTILES, exchanged
from ..cost.step import price
from ..plan import Prediction
from .case import make_case
from .row import Row, read_rows
from .shape import NotModelledError

SOURCE = "nanotron"
PROBABILITIES = tuple(QUANTILES)
EMPTY = 0.5
"""Of the device: below, no run fails for want of memory."""


class Error(NamedTuple):
    """Of one step time: ln(measured / predicted), and the share of the step that communicates."""

    log: float
    exchanged: float


class Fill(NamedTuple):
    """What the tensors of a run fill of its device, and whether it ran."""

    share: float
    ran: bool


def error_of(measured_s: float, predicted: Prediction) -> Error:
    return Error(math.log(measured_s / predicted.step_time_s), exchanged(predicted.breakdown_s))


def fill_of(predicted: Prediction, ran: bool) -> Fill:
    """With what the allocator cannot give back (`footprint.STUCK`)."""
    stuck = [STUCK * (each.activations + each.logits + each.buffers) for each in predicted.memory]
    needs = [each.allocated + each.context + more for each, more in zip(predicted.memory, stuck, strict=True)]
    return Fill(max(need / limit for need, limit in zip(needs, predicted.limits_bytes, strict=True)), ran)


def widths(errors: Sequence[Error]) -> tuple[float, float, float]:
    """Mean |ln| of a step that only computes, and what each share of communication adds, both over that of the mean
    run; and the share from which on it adds no more, which fits best of a grid of 0.01."""
    sizes = np.array([abs(error.log) for error in errors])
    shares = np.array([error.exchanged for error in errors])

    def fitted(most: float) -> tuple[float, float, float, float]:
        columns = np.column_stack([np.ones_like(shares), np.minimum(shares, most)])
        (still, more), *_ = np.linalg.lstsq(columns, sizes, rcond=None)
        found = columns @ (still, more)
        return float(((found - sizes) ** 2).sum()), float(still / found.mean()), float(more / found.mean()), most

    return min(fitted(most / 100) for most in range(2, 101))[1:]


def shape(errors: Sequence[Error], still: float, more: float, most: float) -> list[float]:
    """Quantiles of errors over their width, above the median and over the distance of the 95th percentile from it."""
    scaled = np.array([each.log / (still + more * min(most, each.exchanged)) for each in errors])
    found = np.quantile(scaled, PROBABILITIES)
    middle, end = np.quantile(scaled, (0.5, 0.95))
    return [float(each) for each in (found - middle) / (end - middle)]


def memory_curve(fills: Sequence[Fill]) -> tuple[float, float]:
    """(middle, scale) of p(ran) = base / (1 + exp((share - middle) / scale)), the most likely on a grid of 0.001."""
    shares, ran = np.array([each.share for each in fills]), np.array([each.ran for each in fills])
    base = ran[shares < EMPTY].mean()
    near = (shares > EMPTY) & (shares < 1.5)
    shares, ran = shares[near], ran[near]

    def unlikely(middle: float, scale: float) -> float:
        chance = np.clip(base / (1 + np.exp((shares - middle) / scale)), 1e-9, 1 - 1e-9)
        return -float(np.where(ran, np.log(chance), np.log(1 - chance)).sum())

    grid = ((m / 1000, s / 1000) for m in range(700, 1100, 5) for s in range(10, 150, 5))
    middle, scale = min(grid, key=lambda at: unlikely(*at))
    fine = ((middle + m / 1000, scale + s / 1000) for m in range(-5, 6) for s in range(-5, 6) if scale + s / 1000 > 0)
    return min(fine, key=lambda at: unlikely(*at))


def predicted_rows(rows: Iterable[Row]) -> Iterable[tuple[Row, Prediction, bool]]:
    """Rows that can be priced and do not repeat or contradict others; whether each is complete."""
    seen: set[str] = set()
    for row in rows:
        repeated = bool(row.dup_group) and row.dup_group in seen
        seen.add(row.dup_group)
        if repeated or row.consistent == "no":
            continue
        try:
            case = make_case(row)
            yield row, price(case.setting, case.configuration), case.complete
        except (NotModelledError, MeshwrightError, ValueError):
            continue


def main(path: str) -> None:
    """Print the figures of `planner/cost/risk.py`."""
    errors, fills = list[Error](), list[Fill]()
    for row, predicted, complete in predicted_rows(read_rows(Path(path))):
        if SOURCE in row.source:
            fills.append(fill_of(predicted, ran=not row.oom))
        elif complete and row.measured_step_time_s:
            errors.append(error_of(row.measured_step_time_s, predicted))
    still, more, most = widths(errors)
    print(f"{len(errors)} step times: width {still:.2f} + {more:.2f} x the share of communication up to {most:.2f}")
    quantiles = shape(errors, still, more, most)
    print("quantiles:", ", ".join(f"{p:g}: {each:.2f}" for p, each in zip(PROBABILITIES, quantiles, strict=True)))
    middle, scale = memory_curve(fills)
    print(f"{len(fills)} runs that ran or failed: memory, middle {middle:.3f}, scale {scale:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
