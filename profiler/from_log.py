"""Learn from a log: a cluster from runs of any framework, as a CSV in the columns of `simulate --against`."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from ..clusters.catalogue import load_cluster
from ..planner.fitting.calibrated import Calibrated, calibrate
from ..planner.fitting.rows import read_log


def from_log(path: Path, cluster: str | None = None) -> Calibrated:
    """`cluster` as commands take it; by default the bundled cluster of the GPU that most rows name. Raises InputError
    with every problem of the file."""
    base = None if cluster is None else load_cluster(cluster)
    return calibrate(read_log(path, base), source=path.name, date=date.today().isoformat())
