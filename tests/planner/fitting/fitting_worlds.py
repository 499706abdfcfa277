"""Worlds whose truth is known: runs made of the same parts as real steps, with noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from meshwright.planner.fitting.parameter import PARAMETERS
from meshwright.planner.fitting.sheet import Sheet, Vector

NAMES = [parameter.name for parameter in PARAMETERS]
WIDTH = 0.2  # of the intervals


def truth(**values: float) -> Vector:
    """What a world does, by names with _ for a dot; no change where nothing is said."""
    at = np.zeros(len(NAMES))
    for name, value in values.items():
        at[NAMES.index(name.replace("_", "."))] = value
    return at


def world(runs: int, at: Vector, noise: float, seed: int) -> Sheet:
    """Runs of different sizes: compute has most of each step, links the rest, in shares that differ."""
    rng = np.random.default_rng(seed)
    base = np.exp(rng.normal(0.5, 1.2, runs))
    compute = rng.uniform(0.4, 0.9, runs)
    links = rng.dirichlet(np.ones(4), runs) * (0.9 - compute * 0.9)[:, None]
    slopes = np.zeros((runs, len(NAMES)))
    slopes[:, NAMES.index("compute")] = compute * base
    slopes[:, NAMES.index("step")] = 1.0
    slopes[:, NAMES.index("layer")] = rng.choice([64, 256, 1024], runs)
    for column, name in enumerate(("network.bandwidth", "fabric.bandwidth", "network.latency", "fabric.latency")):
        slopes[:, NAMES.index(name)] = links[:, column] * base
    slopes[:, NAMES.index("overlap")] = 0.05 * rng.random(runs) * base
    groups = tuple(str(number) for number in range(runs))
    made = Sheet(np.ones(runs), base, slopes, PARAMETERS, WIDTH, groups)
    return replace(made, measured_s=made.predicted_s(at) * np.exp(rng.normal(0.0, noise, runs)))


def median_error(sheet: Sheet, at: Vector, rows: Vector) -> float:
    """Of |predicted / measured - 1|."""
    return float(np.median(np.abs(np.expm1(sheet.residuals(at, rows)))))
