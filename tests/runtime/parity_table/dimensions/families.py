"""Families of models: what they have beyond Llama, cut by tensor parallelism."""

from __future__ import annotations

from parity_table.row import Dimension

DIMENSION = Dimension(
    name="family",
    values={"llama": {}},
    rows={
        "llama with biases, tp2 sp": {"model": "llama with biases", "tp": 2, "sp": True, "microbatch": 4},
        "mistral, tp2": {"model": "mistral", "tp": 2, "microbatch": 4},
        "qwen2, tp4": {"model": "qwen2", "tp": 4, "microbatch": 8},
        "qwen3, tp2 dp2": {"model": "qwen3", "tp": 2, "dp": 2, "microbatch": 4},
    },
)
