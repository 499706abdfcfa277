"""How well kernels of sizes that no profile measured are predicted: by table, by regression, by the former curve.

    python tests/benchmarks/kernels_predicted.py [--budget 60] [--held-out 40] [--seed 0] [--profile FILE] [--json FILE]

Profiles one core of this CPU, then times kernels of random sizes of training there and compares. Sizes are drawn
log-uniformly; `chosen` is what a plan would use. Takes the budget and about a minute; --profile reads a cluster file
instead of measuring one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.save import save_cluster
from meshwright.clusters.schema import Cluster
from meshwright.clusters.shape_times import predictors
from meshwright.clusters.shapes import Operation
from meshwright.planner.cost.operations import by_rates
from meshwright.planner.cost.rates import PLAIN, Rates, device_rates
from meshwright.profiler.grid import Point, Sizes
from meshwright.profiler.measure import profile_machine
from meshwright.profiler.operations import measure_point

DRAWN: dict[str, tuple[tuple[int, int, int], ...]] = {  # what training draws from: least, most, multiple of
    "matmul": ((128, 4096, 16), (64, 2048, 16), (64, 2048, 16)),
    "attention": ((2, 32, 1), (128, 2048, 16), (32, 128, 8)),
    "norm": ((128, 4096, 16), (64, 2048, 16)),
    "activation": ((128, 4096, 16), (64, 4096, 16)),
    "residual": ((2**14, 2**22, 16),),
    "loss": ((128, 2048, 16), (512, 16384, 16)),
}
LONGEST_S = 0.06  # of one call by the table: what a minute has room for
LIMIT_S = 0.2  # of one held-out measurement


def one_core() -> None:
    """This process and those that it starts run on one core, with one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def draw(name: str, count: int, longest: Callable[[Sizes], float], among: random.Random) -> list[Sizes]:
    """So many distinct sizes whose calls are not too long."""
    found: dict[Sizes, None] = {}
    while len(found) < count:
        sizes = tuple(
            step * max(1, round(math.exp(among.uniform(math.log(least), math.log(most))) / step))
            for least, most, step in DRAWN[name]
        )
        if longest(sizes) <= LONGEST_S:
            found[sizes] = None
    return list(found)


def predictions(operation: Operation, rates: Rates) -> dict[str, Callable[[Sizes], tuple[float, ...]]]:
    """By table, regression and curve, and by the choice of these that the file made."""

    def by(choice: str) -> Callable[[Sizes], tuple[float, ...]]:
        if choice == "curve":
            return lambda sizes: by_rates(rates, operation.name, tuple(map(float, sizes))) or ()
        asked = predictors(operation.model_copy(update={"chosen": choice}))
        return lambda sizes: tuple(each(tuple(map(float, sizes))) for each in asked)

    choices = ["table", *(["regression"] if operation.regression else []), "curve"]
    return {choice: by(choice) for choice in choices}


def errors(predict: Callable[[Sizes], tuple[float, ...]], points: Sequence[Point]) -> list[float]:
    """Relative errors over all parts of all points."""
    return [
        abs(predicted / measured - 1)
        for point in points
        for predicted, measured in zip(predict(point.sizes), point.seconds, strict=True)
    ]


def compare(cluster: Cluster, count: int, seed: int) -> list[dict[str, Any]]:
    """One row for each operation: points of the profile, and by predictor the median and the 90th percentile."""
    device, rows = cluster.node_groups[0].device, []
    rates = device_rates(device, "fp32", PLAIN)
    assert device.calibration.shapes is not None
    for operation in device.calibration.shapes.operations:
        if operation.name not in DRAWN:
            continue
        measure = measure_point(operation.name, torch.device("cpu"), torch.float32, lambda: None)
        by = predictions(operation, rates)
        among = random.Random(f"{seed}{operation.name}")
        drawn = draw(operation.name, count, lambda sizes, of=by["table"]: max(of(sizes)), among)  # type: ignore[misc]
        points = [measure(sizes, LIMIT_S) for sizes in drawn]
        rows.append(
            {
                "operation": operation.name,
                "points": len(operation.points),
                "held_out": len(points),
                "chosen": operation.chosen,
                "spread": float(np.median([point.spread for point in points])),
                "errors": {choice: _quantiles(errors(predict, points)) for choice, predict in by.items()},
                "measured": [point.row for point in points],
            }
        )
    return rows


def _quantiles(found: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(found)), "p90": float(np.quantile(found, 0.9))}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """As a table: median / 90th percentile of the relative error."""
    table = Table("operation", "points", "held out", "spread", "table", "regression", "curve before", "chosen")
    for row in rows:
        told = [_told(row["errors"].get(choice)) for choice in ("table", "regression", "curve")]
        counts = [str(row["points"]), str(row["held_out"]), f"{row['spread']:.1%}"]
        table.add_row(row["operation"], *counts, *told, row["chosen"])
    Console(width=120).print(table)


def _told(found: dict[str, float] | None) -> str:
    return f"{found['median']:.1%} / {found['p90']:.1%}" if found else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=60)
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    one_core()
    started = time.perf_counter()
    cluster = load_cluster(str(asked.profile)) if asked.profile else profile_machine(1, budget_s=asked.budget)
    if asked.save:
        save_cluster(cluster, asked.save)
    rows = compare(cluster, asked.held_out, asked.seed)
    show(rows)
    print(f"{time.perf_counter() - started:.0f} s; one core, fp32, torch {torch.__version__}, seed {asked.seed}")
    if asked.json:
        asked.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
