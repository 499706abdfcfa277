"""Robust and regularised: the values of some parameters that explain runs best, pulled towards no change.

    minimise  sum over runs of huber(log(predicted / measured) / noise)  +  sum over parameters of (x / prior)^2 / 2

Huber's loss (Ann. Math. Statist. 35, 1964) keeps a run that stalled from pulling as hard as it is far off. The prior is
as wide as the predictions' own interval: a factor that moves the step by one standard deviation of it costs 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .parameter import MOST
from .sheet import Rows, Sheet, Vector

BEND = 1.345
"""Of Huber's loss, in noises: 95 % of the efficiency of least squares where errors are normal."""

LEAST_NOISE = 0.02
"""Of a logarithm: what step times of one configuration repeat to on quiet machines."""

BELIEVED = 2.0
"""Runs that the interval of the predictions counts for, when the noise is estimated from few."""

LINK_PRIOR = 0.7
"""Of the logarithm of a link's latency or bandwidth: a factor of two. Of most runs links are a small part, so that the
interval of the step says little of them."""

ROUNDS = 25


def noise(sheet: Sheet, at: Vector, rows: Rows) -> float:
    """Standard deviation of runs around the model: the median deviation from their median, with the interval's width
    for a few runs more, so that three runs that happen to agree do not look exact."""
    residuals = sheet.residuals(at, rows)
    spread = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
    count = len(residuals)
    pooled = (count * spread**2 + BELIEVED * (sheet.width / 2) ** 2) / (count + BELIEVED)
    return max(LEAST_NOISE, float(np.sqrt(pooled)))


def priors(sheet: Sheet, rows: Rows) -> Vector:
    """Standard deviation of every parameter before any run."""
    found = []
    for column, parameter in enumerate(sheet.parameters):
        if parameter.is_fixed:  # as many seconds as move the step by the width of its interval
            share = float(np.median(sheet.slopes_s[rows, column] / sheet.base_s[rows]))
            found.append(sheet.width / share if share > 0 else 0.0)
        else:
            found.append(LINK_PRIOR if "." in parameter.name else sheet.width)
    return np.array(found)


def huber(residuals: Vector, scale: float) -> Vector:
    """Loss of each, in squares of the noise."""
    far = np.abs(residuals) / scale
    loss: Vector = np.where(far <= BEND, far**2 / 2, BEND * (far - BEND / 2))
    return loss


def solve(sheet: Sheet, free: Sequence[int], rows: Rows) -> Vector:
    """The best values of the `free` parameters for some runs; all others stay at no change."""
    at = np.zeros(len(sheet.parameters))
    chosen = list(free)
    if not chosen:
        return at
    scale, prior = noise(sheet, at, rows), np.maximum(priors(sheet, rows)[chosen], 1e-12)
    low, high = _limits(sheet, chosen)
    best = _loss(sheet, at, rows, chosen, scale, prior)
    for _ in range(ROUNDS):
        move = _move(sheet, at, rows, chosen, scale, prior)
        for _ in range(8):
            there = at.copy()
            there[chosen] = np.clip(at[chosen] + move, low, high)
            loss = _loss(sheet, there, rows, chosen, scale, prior)
            if loss < best:
                break
            move = move / 2
        else:
            return at
        gain, at, best = best - loss, there, loss
        if gain < 1e-6 * (1 + best):
            break
    return at


def _move(sheet: Sheet, at: Vector, rows: Rows, chosen: list[int], scale: float, prior: Vector) -> Vector:
    """One step of Gauss and Newton under the weights of Huber's loss."""
    residuals, predicted = sheet.residuals(at, rows), sheet.predicted_s(at, rows)
    growth = np.array([sheet.parameters[column].slope(at[column]) for column in chosen])
    slopes = sheet.slopes_s[rows][:, chosen] * growth / predicted[:, None]
    weights = np.minimum(1.0, BEND * scale / np.maximum(np.abs(residuals), 1e-12)) / scale**2
    curvature = (slopes * weights[:, None]).T @ slopes + np.diag(prior**-2)
    gradient = (slopes * weights[:, None]).T @ residuals + at[chosen] / prior**2
    return -np.linalg.solve(curvature, gradient)


def _loss(sheet: Sheet, at: Vector, rows: Rows, chosen: list[int], scale: float, prior: Vector) -> float:
    return float(huber(sheet.residuals(at, rows), scale).sum() + ((at[chosen] / prior) ** 2).sum() / 2)


def _limits(sheet: Sheet, chosen: list[int]) -> tuple[Vector, Vector]:
    fixed = [sheet.parameters[column].is_fixed for column in chosen]
    return np.array([0.0 if each else -MOST for each in fixed]), np.array([np.inf if each else MOST for each in fixed])
