"""Data parallelism: the ladder of ZeRO, hybrid sharding, and replicas with their own numbers of microbatches."""

from __future__ import annotations

from parity_table.row import Dimension

DIMENSION = Dimension(
    name="data",
    values={
        "dp1": {},
        "dp2 zero0": {"dp": 2, "zero": 0},
        "dp2 zero1": {"dp": 2, "zero": 1},
        "dp2 zero2": {"dp": 2, "zero": 2},
        "dp2 zero3": {"dp": 2, "zero": 3},
        "dp4 zero1 in 2 copies": {"dp": 4, "zero": 1, "dp_replicate": 2},
        "dp4 zero3 in 2 copies": {"dp": 4, "zero": 3, "dp_replicate": 2},
    },
    rows={
        "dp8 zero3": {"dp": 8, "zero": 3, "microbatch": 1},
        "dp2 zero1 with shares of 3 and 1": {"dp": 2, "zero": 1, "shares": (3, 1)},
    },
)
