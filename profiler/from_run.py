"""Learn from runs of the built-in runtime: the cluster that they were planned for, with what they taught."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ..planner.fitting.calibrated import Calibrated, calibrate
from ..planner.fitting.runs import read_runs


def from_run(paths: Sequence[Path]) -> Calibrated:
    """The cluster of the last run's plan. Raises InputError with every problem of all folders."""
    names = ", ".join(path.name for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    return calibrate(read_runs(paths), source=f"runs {names}", date=date.today().isoformat())
