"""Selection: which parameters are freed. One at a time, and only where runs that were held out say that it helps.

Runs of one configuration are held out together. A parameter is freed when the error of held-out runs falls by more than
chance: the mean gain over the groups has to pass Student's one-sided bound of 5 %, which all candidates share but the
first of the list (compute, of which every step has most), so that noise alone frees next to nothing. Each further
parameter has to pass the same against what is freed already.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .robust import noise, solve
from .sheet import Rows, Sheet, Vector

FOLDS = 10
"""At most; groups share a fold where there are more of them."""

LEAST_GROUPS = 3
"""Configurations, below which nothing is held out that says anything."""

MOST_FREE = 4
"""Parameters: a handful of runs says no more."""

LEAST_GAIN = 0.02
"""Of the error: what is less is not worth a line in a file."""


def folds(groups: Sequence[str]) -> list[Rows]:
    """Row numbers of every part that is held out at once: one group each, or several where they are many."""
    names = list(dict.fromkeys(groups))
    parts = min(FOLDS, len(names))
    part = {name: place % parts for place, name in enumerate(names)}
    rows = np.array([part[group] for group in groups])
    return [np.flatnonzero(rows == each) for each in range(parts)]


def selected(sheet: Sheet, rows: Rows) -> list[int]:
    """Numbers of the parameters to free, in the order in which they were."""
    held = [rows[each] for each in folds([sheet.groups[row] for row in rows])]
    if len(held) < LEAST_GROUPS:
        return []
    scale = noise(sheet, np.zeros(len(sheet.parameters)), rows)
    groups = [sheet.groups[row] for row in np.concatenate(held)]
    free: list[int] = []
    best = _held_out(sheet, free, rows, held, scale)
    while len(free) < min(MOST_FREE, len(held) - 2):
        candidates = [column for column in range(len(sheet.parameters)) if column not in free]
        candidates = [column for column in candidates if _matters(sheet, column, rows)]
        tried = [(column, _held_out(sheet, [*free, column], rows, held, scale)) for column in candidates]
        shared = [(column, losses, 1 if column == 0 else len(candidates)) for column, losses in tried]
        passed = [(losses.sum(), column) for column, losses, by in shared if helps(best, losses, groups, by)]
        if not passed:
            break
        _, chosen = min(passed)
        free.append(chosen)
        best = dict(tried)[chosen]
    return free


def helps(before: Vector, after: Vector, groups: Sequence[str], candidates: int = 1) -> bool:
    """Whether the errors of held-out runs, each of one of the `groups`, fell by more than chance."""
    names = np.array(groups)
    gains = np.array([(before - after)[names == each].mean() for each in dict.fromkeys(groups)])
    if len(gains) < LEAST_GROUPS or gains.mean() <= LEAST_GAIN * before.mean():
        return False
    chance = gains.std(ddof=1) / np.sqrt(len(gains))
    return bool(gains.mean() > student(len(gains) - 1, 0.05 / candidates) * chance)


def missed(residuals: Vector, scale: float) -> Vector:
    """How far each run is off, in noises; what is farther than three is off, and no more is said of it."""
    return np.minimum(np.abs(residuals) / scale, 3.0)


def student(freedom: int, tail: float) -> float:
    """The quantile that Student's t with so many degrees of freedom exceeds with a small probability; Hill, CACM 13
    (1970), algorithm 396, to a few per mille."""
    if freedom == 1:
        return float(1 / np.tan(np.pi * tail))
    if freedom == 2:
        return float((1 - 2 * tail) * np.sqrt(2 / (4 * tail * (1 - tail))))
    normal = _normal(tail)
    g1, g2 = (normal**3 + normal) / 4, (5 * normal**5 + 16 * normal**3 + 3 * normal) / 96
    g3 = (3 * normal**7 + 19 * normal**5 + 17 * normal**3 - 15 * normal) / 384
    return normal + g1 / freedom + g2 / freedom**2 + g3 / freedom**3


def _normal(tail: float) -> float:
    """Of the normal distribution: Abramowitz and Stegun 26.2.23, to 5e-4."""
    t = float(np.sqrt(-2 * np.log(tail)))
    above = 2.515517 + 0.802853 * t + 0.010328 * t**2
    return t - above / (1 + 1.432788 * t + 0.189269 * t**2 + 0.001308 * t**3)


def _matters(sheet: Sheet, column: int, rows: Rows) -> bool:
    """Whether any of these runs would notice: links that nobody uses do not."""
    return bool((sheet.slopes_s[rows, column] > 1e-3 * sheet.base_s[rows] * _unit(sheet, column, rows)).any())


def _unit(sheet: Sheet, column: int, rows: Rows) -> float:
    """Slopes of fixed seconds are counts, which a thousandth of a step's seconds is no measure of."""
    return 0.0 if sheet.parameters[column].is_fixed else 1.0


def _held_out(sheet: Sheet, free: Sequence[int], rows: Rows, held: Sequence[Rows], scale: float) -> Vector:
    """Errors of all runs, each under values that were found without its part."""
    losses = []
    for part in held:
        at = solve(sheet, free, np.setdiff1d(rows, part))
        losses.append(missed(sheet.residuals(at, part), scale))
    return np.concatenate(losses)
