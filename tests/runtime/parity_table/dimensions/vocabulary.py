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
    rows={
        "pp3 tp2 sp tied": {"pp": 3, "tp": 2, "sp": True, "microbatch": 4, "tied": True},
        "pp2 1f1b, three microbatches, vocabulary over all stages": {
            "pp": 2,
            "global_batch": 6,
            "spread_vocabulary": True,
        },
        "pp2 zb-v, five microbatches, vocabulary over all stages": {
            "pp": 2,
            "schedule": "zb-v",
            "vpp": 2,
            "microbatch": 1,
            "global_batch": 5,
            "spread_vocabulary": True,
        },
    },
)
