"""Placements of experts side by side, fitted to half of the prompts of a trace and judged on the others. Not a test.

    python tests/benchmarks/placement.py [TRACE] [--ranks 4,4] [--replicas 16]
    python tests/benchmarks/placement.py [TRACE] --gaps

TRACE is a .npz with `experts` [tokens, layers, top_k] and `prompt`, or routing in JSONL; without it the generator's,
and the title says so. Every row is a mean over layers; predicted time is of all layers, of one microbatch, forward and
backward, with the prices of planner/experts/prices.py.

With --gaps: what the proofs leave open on TRACE and on made traces of several kinds, how much of it is load, and
seconds of one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from meshwright.planner.experts.affinity import coherent
from meshwright.planner.experts.assign import assignments
from meshwright.planner.experts.baselines import by_load, eplb, random
from meshwright.planner.experts.bound import busiest_load
from meshwright.planner.experts.counts import counted, expert_load
from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.layout import Layout, layout
from meshwright.planner.experts.metrics import Metrics, joined
from meshwright.planner.experts.place import measure, place, transposed
from meshwright.planner.experts.placement import Placement
from meshwright.planner.experts.prices import Prices
from meshwright.planner.experts.trace import Trace
from meshwright.planner.experts.trace_file import read_trace

SHAPES = ([4, 4], [4] * 4, [8] * 4)
SEEDS = range(5)
LOOSE = 1.1  # imbalance of load
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
    if arguments.gaps:
        _print_gaps(arguments.trace)
        return
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
    parser.add_argument("--gaps", action="store_true", help="the gap of the proof by kind of trace")
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
    yield _row("copies alone, judged tokens known", held, made, lambda: _foresight(held, made))


def _foresight(held: Trace, made: Layout) -> list[Any]:
    """Placements fitted to the very tokens that they are judged on, by copies alone: about what can be saved at all."""
    counts = (counted(each, made.experts, 4096) for each in transposed(held, 4096))
    return [next(iter(assignments(each, made, Prices(), (0.0,)))) for each in counts]


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


def _gap_traces(path: Path | None) -> Iterator[tuple[str, Trace, tuple[list[int], ...], int]]:
    """Name, trace, arrangements and groups."""
    small, large = ([8], [4, 4], [4] * 4), ([8] * 8,)
    if path is not None:
        yield path.name, read_trace(path), ([8], [4, 4], [2] * 4, [1] * 8, [4] * 4), 1
    yield "generated, 64 experts", generate(32_768, 4, 64, 6), small, 1
    yield "generated, 256 experts", generate(32_768, 2, 256, 8), large, 1
    yield "4 of 8 groups a token", _grouped(32_768, 2, 256, 8), large, 8
    yield "uniform, 64 experts", _uniform(32_768, 4, 64, 6), small, 1
    yield "uniform, 256 experts", _uniform(32_768, 2, 256, 8), large, 1
    yield "families of 8, 64 experts", _families(32_768, 4, 64, 6), small, 1
    yield f"the same, load up to {LOOSE}", _families(32_768, 4, 64, 6), small[:1], 1
    yield "families of 8, 256 experts", _families(32_768, 2, 256, 8), large, 1


def _uniform(tokens: int, layers: int, experts: int, top_k: int) -> Trace:
    score = np.random.default_rng(0).random((tokens, layers, experts), np.float32)
    return Trace(np.argpartition(score, top_k, axis=2)[:, :, :top_k].astype(np.uint8), experts)


def _families(tokens: int, layers: int, experts: int, top_k: int) -> Trace:
    """Every token takes experts of one family of eight, ids at random."""
    random = np.random.default_rng(0)
    family = np.stack([random.permutation(experts) // 8 for _ in range(layers)])
    score = random.random((tokens, layers, experts), np.float32)
    score -= family == random.integers(0, experts // 8, (tokens, layers))[:, :, None]
    return Trace(np.argpartition(score, top_k - 1, axis=2)[:, :, :top_k].astype(np.uint8), experts)


def _grouped(tokens: int, layers: int, experts: int, top_k: int) -> Trace:
    """Group-limited: four of eight groups a token, as generated, and popular experts of these more often."""
    random = np.random.default_rng(0)
    score = random.gumbel(size=(tokens, layers, experts)) + 0.5 * random.standard_normal((layers, experts))
    groups = generate(tokens, layers, 8, 4).experts
    for layer in range(layers):
        inside = (groups[:, layer, :, None] == np.arange(experts) // (experts // 8)).any(1)
        score[:, layer][~inside] = -np.inf
    return Trace(np.argpartition(-score, top_k - 1, axis=2)[:, :, :top_k].astype(np.uint8), experts)


def _print_gaps(path: Path | None) -> None:
    table = Table(title="what the proofs leave open, of the predicted time", title_justify="left")
    for name in ("trace", "nodes x ranks", "layers", "tokens", "time ms", "quick", "s", "thorough", "s", "of it load"):
        table.add_column(name, justify="left" if name == "trace" else "right")
    for name, trace, shapes, groups in _gap_traces(path):
        for shape in shapes:
            limit = LOOSE if str(LOOSE) in name else None
            table.add_row(name, f"{len(shape)} x {shape[0]}", *_gap_row(trace, shape, groups, limit))
    Console(width=150).print(table)


def _gap_row(trace: Trace, shape: list[int], groups: int, limit: float | None) -> list[str]:
    make = partial(place, trace, num_experts=trace.num_experts, ranks_per_node=shape, n_group=groups)
    told: list[str] = []
    for proof in ("quick", "thorough"):
        begin = time.process_time()
        placed = make(max_imbalance=limit, proof=proof)
        told += [f"{placed.gap:.1%}", f"{time.process_time() - begin:.2f}"]
    over = sum(
        placed.metrics.imbalance[layer] * trace.top_k / placed.layout.ranks
        - busiest_load(expert_load(trace.experts[:, layer].T, trace.num_experts), placed.layout)
        for layer in range(trace.num_layers)
    )
    prices = Prices()
    over *= prices.expert_s * prices.tokens_per_rank * placed.layout.ranks
    size = [str(trace.num_layers), f"{trace.tokens:,}", f"{placed.objective_s * 1e3:.1f}"]
    return [*size, *told, f"{over / placed.objective_s:.1%}"]


if __name__ == "__main__":
    main()
