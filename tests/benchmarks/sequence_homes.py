"""What could be saved by choosing which sequences each node takes, if their routing were known. Not a test.

    python tests/benchmarks/sequence_homes.py [TRACE] [--splits 3]

Whole sequences are what data parallelism may give to any rank without anything being put back in order. For a placement
that was fitted to half of the prompts: copies to other nodes a token and layer of the other prompts with homes by
chance, and what no choice of homes undercuts that gives every node as many tokens: the least of
sum over prompts of max over nodes (visits at home - price of the node x tokens) + prices x tokens of a node,
over the prices (a Lagrangian relaxation, by subgradients: any prices bound it).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.layout import Layout, layout
from meshwright.planner.experts.place import place
from meshwright.planner.experts.trace import Trace
from meshwright.planner.experts.trace_file import read_trace

SHAPES = ([4, 4], [4] * 4)
STEPS = 2000

Numbers = np.ndarray[Any, np.dtype[np.floating[Any]]]


def main() -> None:
    """Print a row for each arrangement of ranks and split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path)
    parser.add_argument("--splits", type=int, default=3)
    given = parser.parse_args()
    trace = generate(16_384, 4, 64, 6) if given.trace is None else read_trace(given.trace)
    table = Table(title="copies to other nodes, a token and layer", title_justify="left")
    for name in ("nodes x ranks", "split", "homes by chance", "no choice is below", "saved at most"):
        table.add_column(name, justify="right")
    for shape in SHAPES:
        for seed in range(given.splits):
            chance, least = _copies(*trace.split(seed), layout(trace.num_experts, shape))
            words = f"{chance:.4f}", f"{least:.4f}", f"{1 - least / chance:.1%}"
            table.add_row(f"{len(shape)} x {shape[0]}", str(seed), *words)
    Console().print(table)


def _copies(fit: Trace, held: Trace, made: Layout) -> tuple[float, float]:
    rank_of = place(fit, num_experts=made.experts, ranks_per_node=made.ranks_per_node).rank_of
    visits = _visits(held, made.node_of_rank[np.asarray(rank_of)], made.nodes)
    assert held.prompt is not None
    prompts, place_of = np.unique(held.prompt, return_inverse=True)
    at_home = np.zeros((len(prompts), made.nodes))
    np.add.at(at_home, place_of, visits)
    sizes, cells = np.bincount(place_of).astype(float), held.tokens * held.num_layers
    by_chance, most = visits.sum() / made.nodes, _most_at_home(at_home, sizes)
    return (visits.sum() - by_chance) / cells, (visits.sum() - most) / cells


def _visits(held: Trace, nodes: Numbers, count: int) -> Numbers:
    """[tokens, nodes]: in how many layers a token visits a node, with `nodes` [layers, experts]."""
    found, tokens = np.zeros((held.tokens, count)), np.arange(held.tokens)[:, None]
    for layer in range(held.num_layers):
        there = np.zeros((held.tokens, count), bool)
        there[tokens, nodes[layer][held.experts[:, layer]]] = True
        found += there
    return found


def _most_at_home(at_home: Numbers, sizes: Numbers) -> float:
    """Visits to homes at the most, of prompts with so many tokens. `at_home` [prompts, nodes]."""
    nodes = at_home.shape[1]
    prices, share, best = np.zeros(nodes), sizes.sum() / nodes, float("inf")
    for step in range(1, STEPS + 1):
        left = at_home - sizes[:, None] * prices
        best = min(best, float(left.max(axis=1).sum() + prices.sum() * share))
        taken = np.bincount(left.argmax(axis=1), sizes, minlength=nodes)
        prices += (taken / share - 1) / step**0.5
    return best


if __name__ == "__main__":
    main()
