"""Placements of experts side by side, fitted to half of the prompts of a trace and judged on the others. Not a test.

    python tests/benchmarks/placement.py [TRACE] [--ranks 4,4] [--replicas 16]

TRACE is a .npz with `experts` [tokens, layers, top_k] and `prompt`, or routing in JSONL; without it the generator's,
and the title says so. Every row is a mean over layers; predicted time is of all layers, of one microbatch, forward and
backward, with the prices of planner/experts/prices.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from meshwright.planner.experts.affinity import coherent
from meshwright.planner.experts.baselines import by_load, eplb, random
from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.layout import Layout, layout
from meshwright.planner.experts.metrics import Metrics, joined
from meshwright.planner.experts.place import measure, place
from meshwright.planner.experts.placement import Placement
from meshwright.planner.experts.trace import Trace
from meshwright.planner.experts.trace_file import read_trace

SHAPES = ([4, 4], [4] * 4, [8] * 4)
SEEDS = range(5)
COLUMNS = (
    ("load", "imbalance", "{:.3f}"),
    ("4,096", "window_imbalance", "{:.3f}"),
    ("ranks", "distinct_ranks", "{:.3f}"),
    ("remote nodes", "remote_nodes", "{:.3f}"),
    ("time ms", "time_s", "{:.1f}"),
)

Result = tuple[str, Metrics, float, Placement | None]


def main() -> None:
    """Print a table for each arrangement of ranks."""
    arguments = _arguments()
    trace, title = _trace(arguments.trace)
    fit, held = trace.split()
    shapes = [[int(each) for each in arguments.ranks.split(",")]] if arguments.ranks else SHAPES
    for shape in shapes:
        made = layout(trace.num_experts, shape)
        more = arguments.replicas if arguments.replicas is not None else made.ranks
        _print(title, shape, held, [*_plain(fit, held, made), *_with_replicas(fit, held, shape, more)])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path)
    parser.add_argument("--ranks", help="of each node, with commas")
    parser.add_argument("--replicas", type=int, help="slots beside the experts; default: one a rank")
    return parser.parse_args()


def _trace(path: Path | None) -> tuple[Trace, str]:
    if path is None:
        return generate(65_536, 26, 64, 6), "the generator's trace (no real one was given)"
    return read_trace(path), path.name


def _plain(fit: Trace, held: Trace, made: Layout) -> Iterator[Result]:
    """Placements without replicas."""
    loads = [np.bincount(fit.experts[:, layer].ravel(), minlength=made.experts) for layer in range(fit.num_layers)]
    layers = range(fit.num_layers)
    yield _row("contiguous", held, made, lambda: [made.contiguous for _ in layers])
    drawn = [
        _row("random", held, made, lambda seed=seed: [random(made, 1000 * seed + n) for n in layers]) for seed in SEEDS
    ]
    yield f"random, mean of {len(drawn)}", _mean([each[1] for each in drawn]), drawn[0][2], None
    yield _row("by load (LPT)", held, made, lambda: [by_load(load, made) for load in loads])
    yield _row("EPLB, no replicas", held, made, lambda: [eplb(load, made) for load in loads])
    yield _row("ExFlow's objective", held, made, lambda: coherent(fit, made, "exflow"))
    yield _row("MoETuner's objective", held, made, lambda: coherent(fit, made, "moetuner"))
    placed = place(fit, num_experts=made.experts, ranks_per_node=made.ranks_per_node)
    yield "meshwright", measure(placed.rank_of, held, made), placed.seconds, placed


def _with_replicas(fit: Trace, held: Trace, shape: list[int], more: int) -> Iterator[Result]:
    made = layout(fit.num_experts, shape, more)
    turns = replace(made, split="even")
    loads = [np.bincount(fit.experts[:, layer].ravel(), minlength=made.experts) for layer in range(fit.num_layers)]
    yield _row(f"EPLB, {more} replicas", held, turns, lambda: [eplb(load, made) for load in loads])
    placed = place(fit, num_experts=made.experts, ranks_per_node=shape, replicas=more)
    yield f"meshwright, {more} replicas", measure(placed.rank_of, held, made), placed.seconds, placed


def _row(name: str, held: Trace, made: Layout, make: Callable[[], Any]) -> Result:
    begin = time.perf_counter()
    rank_of = make()
    seconds = time.perf_counter() - begin
    return name, measure(rank_of, held, made), seconds, None


def _mean(found: list[Metrics]) -> Metrics:
    rows = [
        [{key: getattr(each, key)[n] for key in Metrics.__slots__} for each in found]
        for n in range(len(found[0].time_s))
    ]
    return joined([{key: float(np.mean([one[key] for one in row])) for key in row[0]} for row in rows])


def _print(title: str, shape: list[int], held: Trace, rows: list[Result]) -> None:
    nodes = f"{len(shape)} nodes of {shape[0]} ranks" if len(set(shape)) == 1 else f"nodes of {shape} ranks"
    table = Table(title=f"{title}: {nodes}, judged on {held.tokens:,} tokens of other prompts", title_justify="left")
    for name in ("placement", *(name for name, _, _ in COLUMNS), "copies saved", "seconds", "bound ms", "gap"):
        table.add_column(name, justify="left" if name == "placement" else "right")
    base = rows[0][1].means()["remote_nodes"]
    for name, metrics, seconds, placed in rows:
        means = metrics.means()
        means["time_s"] *= 1e3
        saved = 1 - means["remote_nodes"] / base if base else 0.0
        proof = (f"{placed.bound_s * 1e3:.1f}", f"{placed.gap:.1%}") if placed else ("", "")
        table.add_row(
            name, *(form.format(means[key]) for _, key, form in COLUMNS), f"{saved:.1%}", f"{seconds:.2f}", *proof
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
