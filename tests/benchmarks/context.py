"""Algorithms of context parallelism side by side: seconds and bytes of one attention on four CPU ranks. Not a test.

    python tests/benchmarks/context.py [TOKENS]

Ranks share this machine's cores and talk through its memory: times say what an algorithm costs beside its products, not
how it does on a network. Bytes are counted on their way out, of all ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))

import torch
from context_ranks import Case, timed
from harness import run_ranks
from rich.console import Console
from rich.table import Table

RANKS = 4
ALGORITHMS = {
    "one rank": {"algorithm": "ring"},
    "ring": {"algorithm": "ring"},
    "ulysses": {"algorithm": "ulysses"},
    "usp 2 x 2": {"algorithm": "usp", "ulysses": 2},
    "token-ring": {"algorithm": "token-ring"},
    "allgather": {"algorithm": "allgather"},
}
SHAPES = {
    "8 heads, 8 of keys": {"heads": 8, "kv_heads": 8},
    "8 heads, 2 of keys": {"heads": 8, "kv_heads": 2},
    "8 heads, 2 of keys, window of 256": {"heads": 8, "kv_heads": 2, "options": (("window", 256),)},
}


def main(tokens: int) -> None:
    """Print a table for each shape."""
    for title, shape in SHAPES.items():
        table = Table(title=f"{title}, {tokens} tokens, float32", title_justify="left")
        for name in ("algorithm", "forward ms", "backward ms", "sent forward MiB", "sent backward MiB"):
            table.add_column(name, justify="left" if name == "algorithm" else "right")
        for name, options in ALGORITHMS.items():
            sizes = {"batch": 1, "seq_len": tokens, "width": 64, "value_width": 64, "dtype": torch.float32}
            ranks = run_ranks(1 if name == "one rank" else RANKS, timed, Case(**options, **shape, **sizes))
            slowest = [max(rank[part] for rank in ranks) * 1e3 for part in (0, 1)]
            moved = [sum(rank[part] for rank in ranks) / 2**20 for part in (2, 3)]
            table.add_row(name, *(f"{value:.0f}" for value in slowest), *(f"{value:.1f}" for value in moved))
        Console().print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2048)
