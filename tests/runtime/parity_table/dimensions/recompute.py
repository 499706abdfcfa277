"""Recomputation of activations."""

from __future__ import annotations

from parity_table.row import Dimension

_ALL = ("core_attn", "layernorm", "mlp")

DIMENSION = Dimension(
    name="recompute",
    values={
        "recompute none": {},
        "recompute full": {"recompute": "full"},
        "recompute selective": {"recompute": "selective", "recompute_operations": _ALL},
    },
    rows={"recompute attention": {"recompute": "selective"}},
)
