"""Recomputation of activations."""

from __future__ import annotations

from parity_table.row import Dimension

DIMENSION = Dimension(
    name="recompute",
    values={"recompute none": {}, "recompute full": {"recompute": "full"}},
)
