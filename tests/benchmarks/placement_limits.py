"""How few copies any placement could send: a long search that knows the tokens it is judged on. Not a test.

    python tests/benchmarks/placement_limits.py [TRACE] [--ranks 4,4,4,4] [--splits 3] [--starts 8]

For each split of the prompts into two halves, copies to other nodes a token on the second half (means over layers): of
contiguous placement and EPLB, of `place` (fitted to the first half), and the least that a search found of any placement
for these very tokens: exchanges by the visits themselves from random starts, going on where no exchange helps (tabu
search, Glover 1989). `starts` is the share of them that end within a thousandth of the least in their layer; `proven`
is what no placement undercuts (planner/experts/bound.py, thorough).
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
from meshwright.planner.experts.bound import least_visits
from meshwright.planner.experts.counts import counted
from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.layout import Layout, layout, node_sizes
from meshwright.planner.experts.place import measure, place
from meshwright.planner.experts.polish import Visited
from meshwright.planner.experts.trace import Ints, Trace
from meshwright.planner.experts.trace_file import read_trace

NEAR = 1e-3  # of the least: a start that ends there is told as one that found it
FEWER = 0.25  # copies than the others: what is asked for on four nodes
SAMPLE = 6144  # tokens by which a start is brought near a good placement
LONG, SHORT = 600, 20  # exchanges without a better placement: on the sample, on all tokens
STAY = 6  # exchanges for which an exchanged expert stays where it is, or a few more
COLUMNS = ("split", "contiguous", "EPLB", "asked for", "place", "least found", "starts", "below EPLB", "proven")


def main() -> None:
    """Print a table with a row for each split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path)
    parser.add_argument("--ranks", default="4,4,4,4", help="of each node, with commas")
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--starts", type=int, default=8)
    given = parser.parse_args()
    trace = generate(16_384, 4, 64, 6) if given.trace is None else read_trace(given.trace)
    made = layout(trace.num_experts, [int(each) for each in given.ranks.split(",")])
    table = Table(title="copies to other nodes a token, on tokens of other prompts", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for seed in range(given.splits):
        table.add_row(str(seed), *_row(*trace.split(seed), made, given.starts))
    Console(width=120).print(table)


def _row(fit: Trace, held: Trace, made: Layout, starts: int) -> list[str]:
    loads = [np.bincount(fit.experts[:, layer].ravel(), minlength=made.experts) for layer in range(fit.num_layers)]
    placed = place(fit, num_experts=made.experts, ranks_per_node=made.ranks_per_node)
    ways = ([made.contiguous] * fit.num_layers, [eplb(load, made) for load in loads], placed.rank_of)
    even, others, ours = (measure(each, held, made).means()["remote_nodes"] for each in ways)
    layers = [np.ascontiguousarray(held.experts[:, layer].T) for layer in range(held.num_layers)]
    found = [_least(each, made, starts) for each in track(layers, transient=True)]
    remote = 1 - float(made.share[0])
    least = remote * fmean(min(each) for each in found)
    near = fmean(each <= min(one) * (1 + NEAR) for one in found for each in one)
    bound = remote * fmean(_proven(each, made) for each in layers)
    asked = (1 - FEWER) * min(even, others)
    told = (even, others, asked, ours, least)
    return [*(f"{each:.4f}" for each in told), f"{near:.0%}", f"{1 - least / others:.2%}", f"{bound:.3f}"]


def _proven(choices: Ints, made: Layout) -> float:
    return least_visits(counted(choices, made.experts, 4096), node_sizes(made), proof="thorough")


def _least(choices: Ints, made: Layout, starts: int) -> list[float]:
    """Nodes a token visits at least, as each start found it."""
    nodes = made.node_of_rank[made.contiguous]
    return [_searched(choices, np.random.default_rng(seed).permutation(nodes), made.nodes) for seed in range(starts)]


def _searched(choices: Ints, parts: Ints, count: int) -> float:
    """Nodes a token visits where a start ends: first on a sample, which is quick, then on all tokens."""
    sample = choices[:, :: -(-choices.shape[1] // SAMPLE)]
    near, _ = _exchanged(Visited.of(sample, parts.copy(), count), LONG)
    _, best = _exchanged(Visited.of(choices, near, count), SHORT)
    return best / choices.shape[1]


def _exchanged(visited: Visited, patience: int) -> tuple[Ints, float]:
    """The best parts on the way, and the visits of all tokens there: always the best exchange, though it may be for the
    worse, until so many in a row have led to nothing better."""
    tokens, size, free = len(visited.incidence), len(visited.parts), np.zeros(len(visited.parts), np.intp)
    here = best = float((visited.inside > 0).sum())
    found, step, last = visited.parts.copy(), 0, 0
    while step - last < patience:
        step += 1
        change = np.rint(visited.changes() * tokens)
        stays = (free > step)[:, None] | (free > step)[None]
        change[(visited.parts[:, None] == visited.parts[None]) | (stays & (here + change >= best))] = np.inf
        first, second = divmod(int(change.argmin()), size)
        here += float(change[first, second])
        visited.exchange(first, second)
        free[[first, second]] = step + STAY + np.array([first, second]) * step % STAY
        if here < best:
            found, best, last = visited.parts.copy(), here, step
    return found, best


if __name__ == "__main__":
    main()
