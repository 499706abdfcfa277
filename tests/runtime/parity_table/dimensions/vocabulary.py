"""Embedding, head and loss."""

from __future__ import annotations

from parity_table.row import Dimension

DIMENSION = Dimension(
    name="vocabulary",
    values={
        "untied": {},
        "tied": {"tied": True},
        "loss in 4 chunks": {"logits_chunks": 4},
        "vocabulary over all stages": {"spread_vocabulary": True},
    },
    rows={"pp3 tp2 sp tied": {"pp": 3, "tp": 2, "sp": True, "microbatch": 4, "tied": True}},
)
