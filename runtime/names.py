"""Names: what Hugging Face checkpoints of a family call the parameters of the blocks, and how they store them.

Blocks have one set of names, that of Llama's checkpoints, and keep queries, keys and values apart: so that a shard of
each holds whole heads. GPT-2 and Phi-3 store them fused, GPT-2 moreover transposed, and experts are stored one by one.
Our own checkpoints have the blocks' names; import and export translate, by the one table of this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .blocks.expert_names import hub_names, is_stacked
from .blocks.shape import Shape

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_GPT2 = {
    "model.embed_tokens.weight": "transformer.wte.weight",
    "model.embed_positions.weight": "transformer.wpe.weight",
    "model.norm.weight": "transformer.ln_f.weight",
    "model.norm.bias": "transformer.ln_f.bias",
}
_GPT2_LAYER = {
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.q_proj": "attn.c_attn",
    "self_attn.k_proj": "attn.c_attn",
    "self_attn.v_proj": "attn.c_attn",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
_PHI3_LAYER = {
    "self_attn.q_proj": "self_attn.qkv_proj",
    "self_attn.k_proj": "self_attn.qkv_proj",
    "self_attn.v_proj": "self_attn.qkv_proj",
    "mlp.gate_proj": "mlp.gate_up_proj",
    "mlp.up_proj": "mlp.gate_up_proj",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of a checkpoint, and which part of it a parameter is.

    Rows are those of [out, in], which the checkpoint stores as [in, out] if `transposed`.
    """

    name: str
    first_row: int = 0
    transposed: bool = False
    expert: int | None = None  # the source is this one of a parameter that stacks experts


def sources(shape: Shape, name: str) -> Iterator[Source]:
    """Where the blocks' parameter `name` is in a checkpoint of the family: one tensor, or one an expert."""
    if shape.moe is not None:
        hub, stacked = hub_names(name, shape.moe), is_stacked(name)
        yield from (Source(each, expert=expert if stacked else None) for expert, each in enumerate(hub))
        return
    found = _LAYER.fullmatch(name)
    table = {"gpt2": _GPT2_LAYER, "phi3": _PHI3_LAYER}.get(shape.family, {})
    if found is None or found[2] not in table:
        yield Source(_GPT2.get(name, name) if shape.family == "gpt2" else name)
        return
    layer, module, kind = found.groups()
    prefix = f"transformer.h.{layer}" if shape.family == "gpt2" else f"model.layers.{layer}"
    transposed = shape.family == "gpt2" and kind == "weight" and "norm" not in module
    yield Source(f"{prefix}.{table[module]}.{kind}", _first_row(shape, module), transposed)


def _first_row(shape: Shape, module: str) -> int:
    """Where a projection begins in the tensor that it is fused into."""
    if module == "self_attn.k_proj":
        return shape.heads * shape.head_dim
    if module == "self_attn.v_proj":
        return (shape.heads + shape.kv_heads) * shape.head_dim
    return shape.intermediate if module == "mlp.up_proj" and shape.gated else 0


Sizes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Piece:
    """A parameter, or one expert of it, as a part of a checkpoint's tensor."""

    parameter: str
    source: Source


def pieces(shape: Shape, names: Iterable[str]) -> dict[str, list[Piece]]:
    """What each tensor of a checkpoint consists of: parameters one below the other, in the order of their rows."""
    found: dict[str, list[Piece]] = {}
    for name in names:
        for source in sources(shape, name):
            found.setdefault(source.name, []).append(Piece(name, source))
    for own in found.values():
        own.sort(key=lambda piece: piece.source.first_row)
    return found


def stored_sizes(shape: Shape, sizes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """Sizes of a checkpoint's tensors, from those of the parameters; all of a fused tensor's must be among them."""
    return {tensor: _stored_size(own, sizes) for tensor, own in pieces(shape, sizes).items()}


def _stored_size(own: list[Piece], sizes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    last = own[-1]
    rows, *rest = sizes[last.parameter] if last.source.expert is None else sizes[last.parameter][1:]
    size = (last.source.first_row + rows, *rest)
    return size[::-1] if last.source.transposed else size
