"""Copies that a split of sequences by token ids saves, on prompts that nothing was fitted to. Not a test.

    python tests/benchmarks/shuffle.py TRACE.npz

TRACE holds `experts` [tokens, layers, top_k], `prompt` and `token` [tokens]: ids in any numbering; where it has none,
the first two choices of the first layer stand in for them. Half of the prompts make the table and the placement, the
others are judged, in sequences of 1,024 tokens. `by homes` is what the runtime does, `weighed` lets those choose first
that have most to lose.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from meshwright.planner.experts.layout import layout
from meshwright.planner.experts.place import place
from meshwright.planner.experts.shuffle import aligned, fit, measure
from meshwright.planner.experts.trace import Trace

SEQ_LEN = 1024
SHAPES = (([8], 8), ([4, 4], 4))  # ranks of each node, tp


def main(path: Path) -> None:
    """Print a row for each arrangement of ranks and placement."""
    held = np.load(path)
    experts = held["experts"]
    ids = held["token"] if "token" in held else experts[:, 0, 0] * np.int64(256) + experts[:, 0, 1]
    trace = Trace(experts, int(experts.max()) + 1, held["prompt"])
    names = np.unique(trace.prompt)
    inside = np.isin(trace.prompt, np.random.default_rng(0).permutation(names)[: len(names) // 2])
    named = "" if "token" in held else "; choices of the first layer for ids"
    table = Table(title=f"{path.name}: copies to other ranks, a token and layer{named}", title_justify="left")
    for name in ("nodes x ranks", "tp", "placement", "in order", "by homes", "saved", "weighed", "if all were known"):
        table.add_column(name, justify="left" if name == "placement" else "right")
    for shape, tp in SHAPES:
        for row in _rows(trace, ids, inside, shape, tp):
            table.add_row(*row)
    Console().print(table)


def _rows(trace: Trace, ids: np.ndarray, inside: np.ndarray, shape: list[int], tp: int) -> list[list[str]]:
    fitted, judged = trace.take(inside), trace.take(~inside)
    ranks = sum(shape)
    groups = [range(first, first + tp) for first in range(0, ranks, tp)]
    placed = np.asarray(place(fitted, num_experts=trace.num_experts, ranks_per_node=shape).rank_of)
    contiguous = np.tile(layout(trace.num_experts, shape).contiguous, (trace.num_layers, 1))
    rows = []
    for name, rank_of in (("contiguous", contiguous), ("placed", placed)):
        for kind, each in ((name, rank_of), (f"{name}, aligned", aligned(fitted, ids[inside], rank_of, groups))):
            by = fit(fitted, ids[inside], each, ranks)
            copies = measure(judged, ids[~inside], each, groups, SEQ_LEN, by)
            others = [f"{1 - each / copies.in_order:.1%}" for each in (copies.forecast, copies.known)]
            numbers = f"{copies.in_order:.3f}", f"{copies.homes:.3f}", f"{copies.saved:.1%}", *others
            rows.append([f"{len(shape)} x {shape[0]}", str(tp), kind, *numbers])
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]))
