"""How much of a placement's gain is chance of which prompts it was fitted to: the same by many splits. Not a test.

    python tests/benchmarks/placement_splits.py [TRACE] [--ranks 4,4,4,4] [--splits 20]

For each split of the prompts into two halves, of a placement fitted to the first and judged on the second (means over
layers): copies to other nodes beside those of contiguous placement and of EPLB without replicas, and the load of the
busiest rank over the mean, beside contiguous. Then the mean over splits, and the least and the greatest.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from meshwright.planner.experts.baselines import eplb
from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.layout import Layout, layout
from meshwright.planner.experts.place import measure, place
from meshwright.planner.experts.trace import Trace
from meshwright.planner.experts.trace_file import read_trace

COLUMNS = ("split", "below contiguous", "below EPLB", "EPLB below contiguous", "load", "load, contiguous")


def main() -> None:
    """Print a table with a row for each split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path)
    parser.add_argument("--ranks", default="4,4,4,4", help="of each node, with commas")
    parser.add_argument("--splits", type=int, default=20)
    given = parser.parse_args()
    trace = generate(16_384, 4, 64, 6) if given.trace is None else read_trace(given.trace)
    made = layout(trace.num_experts, [int(each) for each in given.ranks.split(",")])
    found = [_row(*trace.split(seed), made) for seed in track(range(given.splits), transient=True)]
    table = Table(title=f"{given.trace or 'generated'}, nodes of {given.ranks} ranks", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for seed, row in enumerate(found):
        table.add_row(str(seed), *_words(row))
    for name, of in (("mean", fmean), ("least", min), ("greatest", max)):
        table.add_row(name, *_words([of(column) for column in zip(*found, strict=True)]))
    Console(width=120).print(table)


def _row(fit: Trace, held: Trace, made: Layout) -> list[float]:
    loads = [np.bincount(fit.experts[:, layer].ravel(), minlength=made.experts) for layer in range(fit.num_layers)]
    placed = place(fit, num_experts=made.experts, ranks_per_node=made.ranks_per_node)
    ways = ([made.contiguous] * fit.num_layers, [eplb(load, made) for load in loads], placed.rank_of)
    even, others, ours = (measure(each, held, made).means() for each in ways)

    def below(a: dict[str, float], b: dict[str, float]) -> float:
        return 1 - a["remote_nodes"] / b["remote_nodes"]

    return [below(ours, even), below(ours, others), below(others, even), ours["imbalance"], even["imbalance"]]


def _words(row: list[float]) -> list[str]:
    return [*(f"{each:.1%}" for each in row[:3]), *(f"{each:.3f}" for each in row[3:])]


if __name__ == "__main__":
    main()
