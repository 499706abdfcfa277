"""Accuracy: how far predictions are from what was measured, over a set of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeVar

from .comparison import Comparison


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Over `rows` runs with a measured and a predicted value; fractions, None where there is no such run.

    An error is predicted / measured - 1. `mape` is the mean and `median` the median of its size, `bias` its mean
    with the sign (below zero: predicted too fast, or too small), `coverage` the share of the runs whose measured
    value lies in the interval of the prediction.
    """

    rows: int
    mape: float | None = None
    median: float | None = None
    bias: float | None = None
    coverage: float | None = None


def accuracy(errors: Iterable[float], inside: Iterable[bool] = ()) -> Accuracy:
    """Of a set of errors; `inside` says of each prediction that has an interval whether it held."""
    errors, held = list(errors), list(inside)
    if not errors:
        return Accuracy(0)
    sizes = [abs(error) for error in errors]
    return Accuracy(len(errors), fmean(sizes), median(sizes), fmean(errors), fmean(held) if held else None)


def step_time_accuracy(rows: Iterable[Comparison]) -> Accuracy:
    """Of the step times of those rows that have both a measured and a predicted one."""
    both = [(row.error, row.inside) for row in rows if row.error is not None]
    errors = (error for error, _ in both if error is not None)
    return accuracy(errors, (inside for _, inside in both if inside is not None))


Part = TypeVar("Part")


def by(
    name: Callable[[Comparison], str], rows: Iterable[Comparison], judge: Callable[[list[Comparison]], Part]
) -> dict[str, Part]:
    """One judgement for each source, GPU kind, ...; in the order in which the rows name them first."""
    parts: dict[str, list[Comparison]] = {}
    for row in rows:
        parts.setdefault(name(row), []).append(row)
    return {key: judge(part) for key, part in parts.items()}
