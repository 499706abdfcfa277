"""What is sent to experts, and in how many parts: rows of the dimension of experts."""

from __future__ import annotations

from parity_table.row import Options

_ALONE = {
    "a copy a rank": {"dispatch": "ranks"},
    "in 3 chunks": {"dispatch_chunks": 3},
    "a copy a rank in 3 chunks": {"dispatch": "ranks", "dispatch_chunks": 3},
}
_NODES = {"model": "qwen3_moe", "nodes": 2, "ep": 4, "dispatch": "nodes"}
_TO_NODES = {"a copy a node": {}, "a copy a node in 2 chunks": {"dispatch_chunks": 2}}
_RANKS = {"model": "qwen3_moe", "ep": 2, "dispatch": "ranks", "dispatch_chunks": 2}
_TOGETHER = {
    "pp2 zb-h1 dp2 ep2 recompute, a copy a rank in 2 chunks": {
        **_RANKS, "pp": 2, "dp": 2, "schedule": "zb-h1", "recompute": "full",
    },
    "tp2 sp dp2 ep2 etp2, a copy a rank in 2 chunks": {**_RANKS, "tp": 2, "sp": True, "dp": 2, "etp": 2},
    "cp2 ep2 moe and norms again, a copy a rank in 2 chunks": {
        **_RANKS, "cp": 2, "recompute": "selective", "recompute_operations": ("moe", "layernorm"),
    },
    "zero3 dp4 ep2 activation again, a copy a rank in 2 chunks": {
        **_RANKS, "dp": 4, "zero": 3, "recompute": "selective", "recompute_operations": ("moe_act",),
    },
    "tp2 sp dp2 ep4, a copy a node in 2 chunks": {**_NODES, "tp": 2, "sp": True, "dp": 2, "dispatch_chunks": 2},
    "cp2 dp2 ep4 recompute, deepseek_v3, a copy a node": {
        **_NODES, "model": "deepseek_v3", "cp": 2, "dp": 2, "recompute": "full",
    },
    "pp2 tp2 sp dp2 ep4, deepseek_v3, a copy a node, 2 chunks": {
        **_NODES, "model": "deepseek_v3", "pp": 2, "tp": 2, "sp": True, "dp": 2, "dispatch_chunks": 2, "nodes": 4,
    },
    "dp4 tp2 sp ep4 etp2, deepseek_v3, a copy a node, 2 chunks": {
        **_NODES, "model": "deepseek_v3", "dp": 4, "tp": 2, "sp": True, "etp": 2, "dispatch_chunks": 2,
    },
}  # fmt: skip

ROWS: dict[str, Options] = {
    **{f"ep2 dp2, {name}": {"model": "mixtral", "dp": 2, "ep": 2, **options} for name, options in _ALONE.items()},
    **{f"ep4 dp4, {name}": {**_NODES, "dp": 4, **options} for name, options in _TO_NODES.items()},
    **_TOGETHER,
}
