"""Names of stacked expert weights here, and of single experts in Hugging Face checkpoints.

    here    model.layers.3.mlp.experts.gate_proj                    [experts, width, hidden]
    Qwen, OLMoE, DeepSeek   model.layers.3.mlp.experts.7.gate_proj.weight           [width, hidden]
    Mixtral                 model.layers.3.block_sparse_moe.experts.7.w1.weight     [width, hidden]

All other weights have one name, in which Mixtral's checkpoints call the block `block_sparse_moe`.
"""

from __future__ import annotations

import re

from .moe_shape import MoeShape

_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_HERE = re.compile(r"(.*\.)mlp\.experts\.(gate_proj|up_proj|down_proj)")
_MIXTRAL_BLOCK = "block_sparse_moe"


def is_stacked(name: str) -> bool:
    """Whether this parameter of the runtime holds the weights of all experts of a layer."""
    return _HERE.fullmatch(name) is not None


def stacked_names(layer: int) -> list[str]:
    """The parameters of the runtime that hold the weights of all experts of a layer."""
    return [f"model.layers.{layer}.mlp.experts.{matrix}" for matrix in _MIXTRAL]


def hub_name(name: str, moe: MoeShape | None, expert: int | None = None) -> str:
    """What a checkpoint calls the runtime's parameter `name`; of a stacked one, its `expert`."""
    mixtral = moe is not None and moe.hub_block == _MIXTRAL_BLOCK
    found = _HERE.fullmatch(name)
    if found is None:
        return name.replace(".mlp.", f".{_MIXTRAL_BLOCK}.") if mixtral else name
    before, matrix = found.groups()
    block, matrix = (_MIXTRAL_BLOCK, _MIXTRAL[matrix]) if mixtral else ("mlp", matrix)
    return f"{before}{block}.experts.{expert}.{matrix}.weight"


def hub_names(name: str, moe: MoeShape | None) -> list[str]:
    """All names under which a checkpoint holds the runtime's parameter `name`: one, or one an expert in their order."""
    if moe is None or not is_stacked(name):
        return [hub_name(name, moe)]
    return [hub_name(name, moe, expert) for expert in range(moe.experts)]


def runtime_name(hub: str) -> tuple[str, int | None]:
    """The runtime's parameter that holds a checkpoint's tensor, and which of its experts that is (None: all of it)."""
    matrices = {**{theirs: ours for ours, theirs in _MIXTRAL.items()}, **{name: name for name in _MIXTRAL}}
    hub = hub.replace(f".{_MIXTRAL_BLOCK}.", ".mlp.")
    found = re.fullmatch(r"(.*\.mlp\.experts)\.(\d+)\.(\w+)\.weight", hub)
    if found is None:
        return hub, None
    return f"{found[1]}.{matrices[found[3]]}", int(found[2])
