"""Fit: from runs to an adjustment of their cluster, with the error of runs that the fit had not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...clusters.adjustment import Adjustment, Evidence
from ...units import significant
from .observation import STEP, Observation
from .parameter import PARAMETERS, adjustment
from .robust import LEAST_NOISE, noise, solve
from .select import LEAST_GROUPS, folds, missed, selected
from .sheet import Rows, Sheet, Vector, around, sheet

AGAIN = 2
"""How often slopes are taken anew where a fit has arrived; once where a run is held out, of which there are many."""


@dataclass(frozen=True, slots=True)
class Fit:
    """`adjustment` is None where no parameter moved; `why` says so. Predictions stand in the order of the step times:
    `held_out_s` are those under a fit that had not seen the run's configuration; of three or four configurations all
    took part in the selection. `is_judged`: there were enough to say whether an adjustment helps."""

    adjustment: Adjustment | None
    why: str
    measured_s: Vector
    before_s: Vector
    held_out_s: Vector
    after_s: Vector
    is_judged: bool = True

    @property
    def errors(self) -> dict[str, float]:
        """Medians of |predicted / measured - 1|: before, held out, and of the runs that were fitted."""
        parts = {"before": self.before_s, "held_out": self.held_out_s, "fitted": self.after_s}
        return {name: error(predicted, self.measured_s) for name, predicted in parts.items()}


def error(predicted_s: Vector, measured_s: Vector) -> float:
    """Median of |predicted / measured - 1|."""
    return float(np.median(np.abs(predicted_s / measured_s - 1)))


def fit(observations: Sequence[Observation], *, source: str, date: str, framework: str = "meshwright") -> Fit:
    """The adjustment that these runs ask for; none where held-out steps do not say that it helps."""
    steps = np.array([place for place, each in enumerate(observations) if each.of == STEP], dtype=np.int64)
    measured = np.array([observations[place].measured_s for place in steps])
    groups = len({each.group for each in observations})
    if groups < LEAST_GROUPS:
        before = np.array([observations[place].predicted_s() for place in steps])
        counted = f"{groups} configuration{'s' if groups != 1 else ''}"
        why = f"{counted}: at least {LEAST_GROUPS} are needed to hold one out and still fit"
        return Fit(None, why, measured, before, before, before, is_judged=False)
    table = sheet(observations, PARAMETERS)
    before, rows = table.base_s[steps], np.arange(len(observations))
    held_out = _held_out(observations, table, rows)[steps]
    at = _fitted(observations, table, rows)
    why = _refusal(table.of(steps), held_out, at)
    if why:
        return Fit(None, why, measured, before, held_out, before)
    evidence = Evidence(
        rows=len(steps),
        configurations=groups,
        error_before=significant(error(before, measured)),
        error_after=significant(error(held_out, measured)),
    )
    found = adjustment(PARAMETERS, at, source=source, date=date, framework=framework, evidence=evidence)
    after = np.array([observations[place].predicted_s(found) for place in steps])
    return Fit(found, "", measured, before, held_out, after)


def _fitted(observations: Sequence[Observation], table: Sheet, rows: Rows, again: int = AGAIN) -> Vector:
    """Values of all parameters, found on some runs; slopes are taken anew where it arrives."""
    return _valued(observations, table, rows, selected(table, rows), again)


def _valued(observations: Sequence[Observation], table: Sheet, rows: Rows, free: list[int], again: int) -> Vector:
    """Values of the `free` parameters."""
    at = solve(table, free, rows)
    for _ in range(again if at.any() else 0):
        near = around([observations[row] for row in rows], PARAMETERS, at, free)
        at = solve(near, free, np.arange(len(rows)))
    return at


def _held_out(observations: Sequence[Observation], table: Sheet, rows: Rows) -> Vector:
    """Real prices of every run under what was selected and fitted without its part. Where the rest is too few to select
    on, it is fitted in what all of them selected."""
    found, parts = table.base_s.copy(), folds(table.groups)
    known = selected(table, rows) if len(parts) <= LEAST_GROUPS + 1 else None
    for part in parts:
        rest = np.setdiff1d(rows, part)
        free = selected(table, rest) if known is None else known
        at = _valued(observations, table, rest, free, again=1)
        if at.any():
            seen = adjustment(PARAMETERS, at, source="held out", date="2000-01-01")
            found[part] = [observations[row].predicted_s(seen) for row in part]
    return found


def _refusal(steps: Sheet, held_out: Vector, at: Vector) -> str:
    """Why nothing is to change, or nothing where held-out steps are nearer than before, in the mean and the median: by
    more than chance they are already, or nothing would have been selected. What steps repeat to is no gain."""
    if not at.any():
        return "no parameter brings held-out runs nearer by more than chance"
    scale = noise(steps, np.zeros(len(at)), np.arange(len(held_out)))
    before, after = (missed(np.log(each / steps.measured_s), scale).mean() for each in (steps.base_s, held_out))
    gain = error(steps.base_s, steps.measured_s) - error(held_out, steps.measured_s)
    if after >= before or gain < 0:
        return "what these runs ask for does not hold for runs that the fit had not seen"
    if gain < LEAST_NOISE:
        return f"runs that the fit had not seen come nearer by {gain:.1%}, and steps repeat to {LEAST_NOISE:.0%} only"
    return ""
