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
        "gemma2, tp2 cp2": {"model": "gemma2", "tp": 2, "cp": 2},
        "gpt2, tp2 pp2": {"model": "gpt2", "tp": 2, "pp": 2},
        "phi3, tp2 dp2": {"model": "phi3", "tp": 2, "dp": 2},
        "qwen2_moe, tp2 sp ep2": {"model": "qwen2_moe", "tp": 2, "sp": True, "ep": 2},
        "qwen3_moe, ep2 dp2": {"model": "qwen3_moe", "dp": 2, "ep": 2},
        "olmoe, cp2 ep2": {"model": "olmoe", "cp": 2, "ep": 2},
        "deepseek_v2, tp2 sp ep2": {"model": "deepseek_v2", "tp": 2, "sp": True, "ep": 2},
        "deepseek_v3, pp2 tp2 sp etp2": {"model": "deepseek_v3", "pp": 2, "tp": 2, "sp": True, "etp": 2},
    },
)
