"""Ways to send tokens to their experts, side by side: bytes that cross between nodes, and time by chunks. Not a test.

    python tests/benchmarks/dispatch.py [TRACE]

Eight CPU processes stand for two nodes of four ranks. Bytes of one layer are counted where they are handed to the
process group, hidden states of 256 float32; TRACE is as of placement.py, without it the generator's. Processes share
this machine's cores and talk through its memory: times say what chunks cost, not what they hide on a network.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))

import numpy as np
from dispatch_ranks import NODES, PER_NODE, Case, crossing, timed
from harness import run_ranks
from rich.console import Console
from rich.table import Table

from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.place import place
from meshwright.planner.experts.trace import Trace
from meshwright.planner.experts.trace_file import read_trace

RANKS, TOKENS, LAYER = NODES * PER_NODE, 512, 0
CHUNKS = (1, 2, 4)


def main(path: Path | None) -> None:
    """Print both tables."""
    trace = generate(4 * RANKS * TOKENS, 1, 64, 6) if path is None else read_trace(path)
    fit, held = trace.split()
    one_layer = Trace(fit.experts[:, LAYER : LAYER + 1], fit.num_experts, fit.prompt)
    placed = place(one_layer, num_experts=trace.num_experts, ranks_per_node=[PER_NODE] * NODES)
    orders = {"contiguous": np.arange(trace.num_experts), "placed": np.asarray(placed.permutation[0])}
    table = Table(title=f"{'generated' if path is None else path.name}: MiB of one layer, all ranks, forward",
                  title_justify="left")  # fmt: skip
    for name in ("placement", "sent", "between nodes", "inside", "between, backward", "of copies"):
        table.add_column(name, justify="left" if name in ("placement", "sent") else "right")
    for name, order in orders.items():
        slots = np.argsort(order)[held.experts[: RANKS * TOKENS, LAYER].astype(np.int64)]
        _bytes(table, name, slots, trace.num_experts)
    Console().print(table)
    _times()


def _bytes(table: Table, placement: str, slots: np.ndarray, experts: int) -> None:
    plain = 0.0
    for sent in ("copies", "ranks", "nodes"):
        ranks = run_ranks(RANKS, crossing, Case(sent), slots.reshape(RANKS, -1, slots.shape[-1]), experts)
        between, inside, backward = (sum(rank[part] for rank in ranks) / 2**20 for part in range(3))
        plain = plain or between
        table.add_row(placement, sent, f"{between:.1f}", f"{inside:.1f}", f"{backward:.1f}", f"{between / plain:.2f}")


def _times() -> None:
    table = Table(title="ms of one layer, forward and backward, by the clock and of CPU: medians of 9 rounds, and over "
                  "those of one chunk", title_justify="left")  # fmt: skip
    for name in ("sent", *(f"in {chunks}" for chunks in CHUNKS)):
        table.add_column(name, justify="left" if name == "sent" else "right")
    for sent in ("copies", "ranks", "nodes"):
        ranks = run_ranks(4, timed, [Case(sent, chunks) for chunks in CHUNKS], 9, timeout_s=500.0)
        by_case = list(zip(*ranks, strict=True))
        clock = [statistics.median(max(t for t, _ in each) for each in zip(*case, strict=True)) for case in by_case]
        used = [statistics.median(sum(t for _, t in each) for each in zip(*case, strict=True)) for case in by_case]
        table.add_row(sent, *(
            f"{t * 1e3:.0f} ({t / clock[0]:.2f}), CPU {c * 1e3:.0f} ({c / used[0]:.2f})"
            for t, c in zip(clock, used, strict=True)
        ))  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
