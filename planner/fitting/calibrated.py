"""Calibrated: a cluster with what its runs taught, and the report of how that was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...clusters.schema import Cluster
from .fit import Fit, fit
from .observation import STEP
from .rows import Found


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Where nothing moved `why` says so; then `cluster` is as it was, but for an earlier adjustment that these runs, if
    enough to tell, do not ask for: `dropped`. `used` names the runs in the order of `fit`; `steps`: how many steps of
    them there are, and were timed, where that is known."""

    cluster: Cluster
    dropped: bool
    framework: str
    used: tuple[str, ...]
    refused: Mapping[str, str]
    fit: Fit
    steps: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def moved(self) -> dict[str, float]:
        """Factors and seconds that are no longer at their defaults, by their names in the file."""
        return {} if self.fit.adjustment is None else self.fit.adjustment.moved

    @property
    def why(self) -> str:
        """Why nothing moved; nothing where something did."""
        return self.fit.why


def calibrate(found: Found, *, source: str, date: str) -> Calibrated:
    """The cluster of some runs, adjusted as far as held-out runs say that it helps. `date`: year-month-day."""
    made = fit(found.observations, source=source, date=date, framework=found.framework)
    names = tuple(each.name for each in found.observations if each.of == STEP)
    earlier, told = found.cluster.adjustment, made.adjustment is not None or made.is_judged
    cluster = found.cluster.model_copy(update={"adjustment": made.adjustment if told else earlier})
    dropped = earlier is not None and cluster.adjustment is None
    return Calibrated(cluster, dropped, found.framework, names, found.refused, made, found.steps)


def calibrated_json(found: Calibrated) -> dict[str, Any]:
    """For programs: errors as fractions, the rows with seconds. Keys are only ever added."""
    parts = found.fit
    columns = zip(found.used, parts.measured_s, parts.before_s, parts.held_out_s, parts.after_s, strict=True)
    names = ("measured_s", "before_s", "held_out_s", "fitted_s")
    return {
        "framework": found.framework,
        "moved": found.moved,
        "why_nothing_moved": found.why or None,
        "earlier_adjustment_dropped": found.dropped,
        "errors": parts.errors,
        "rows": [
            {"run": run, **dict(zip(names, map(float, values), strict=True)), **_counts(found, run)}
            for run, *values in columns
        ],
        "refused": dict(found.refused),
        "cluster": found.cluster.model_dump(mode="json", by_alias=True),
    }


def _counts(found: Calibrated, run: str) -> dict[str, int]:
    return dict(zip(("steps", "timed_steps"), found.steps.get(run, ()), strict=False))


def calibrated_lines(found: Calibrated) -> list[str]:
    """For people."""
    errors = found.fit.errors
    lines = [f"{len(found.used)} runs of {found.framework} on {found.cluster.name}, {len(found.refused)} refused"]
    lines += [f"  refused {run}: {why}" for run, why in found.refused.items()]
    lines += [
        f"  {run}: {timed} of {steps} steps timed; the first of every launch warm up"
        for run, (steps, timed) in found.steps.items()
    ]
    if found.why:
        what = "the earlier adjustment is left out" if found.dropped else "nothing changed"
        return [*lines, f"{what}: {found.why} (median error without one {errors['before']:.1%})"]
    lines += [f"  {name}: {_shown(name, value)}" for name, value in found.moved.items()]
    after = f"{errors['held_out']:.1%} for runs that the fit had not seen, {errors['fitted']:.1%} for those that it had"
    return [*lines, f"median error {errors['before']:.1%} before; {after}"]


def _shown(name: str, value: float) -> str:
    if name in ("layer", "step"):
        return f"{value:.3g} s" + (" a layer and microbatch" if name == "layer" else " a step")
    return f"{value:.3g} times what the file says"
