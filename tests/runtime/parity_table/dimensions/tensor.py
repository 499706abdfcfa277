"""Tensor and sequence parallelism."""

from __future__ import annotations

from parity_table.row import Dimension

DIMENSION = Dimension(
    name="tensor",
    values={"tp1": {}, "tp2": {"tp": 2}, "tp2 sp": {"tp": 2, "sp": True}},
    rows={"tp4 sp, more ranks than key heads": {"tp": 4, "sp": True, "microbatch": 8}},
)
