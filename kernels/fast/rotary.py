"""Rotation of queries and keys by their positions, by Triton, in one launch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..kernel import Sizes
from ..programs.program import Program, program
from ..programs.rotary import rotary as rotary_program
from . import memory
from .launch import launch, power_of_two

_ENTRIES = 2048  # that are turned at once
_WARPS = 4


def rotary(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None, *, pairs: bool = False
) -> tuple[Tensor, Tensor]:
    """As `kernels.rotary.rotary`."""
    turned, turned_key = _rotary(query, key, cos, sin, positions, pairs)
    return turned, turned_key


rotary_pairs = partial(rotary, pairs=True)


@torch.library.custom_op("meshwright::rotary", mutates_args=())
def _rotary(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, pairs: bool
) -> tuple[Tensor, Tensor]:
    return _turn(query, key, cos, sin, positions, direction=1.0, from_pairs=pairs, to_pairs=False)


@torch.library.custom_op("meshwright::rotary_backward", mutates_args=())
def _rotary_backward(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, pairs: bool
) -> tuple[Tensor, Tensor]:
    """Gradients turn by the negative angle."""
    return _turn(query, key, cos, sin, positions, direction=-1.0, from_pairs=False, to_pairs=pairs)


@_rotary.register_fake
@_rotary_backward.register_fake
def _(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, pairs: bool
) -> tuple[Tensor, Tensor]:
    return _like(query), _like(key)


def _like(x: Tensor) -> Tensor:
    """Heads [batch, heads, seq_len, width] as they come from a projection: in memory, token after token."""
    batch, heads, seq_len, width = x.shape
    return memory.empty((batch, seq_len, heads, width), x).transpose(1, 2)


def _turn(
    query: Tensor,
    key: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    *,
    direction: float,
    from_pairs: bool,
    to_pairs: bool,
) -> tuple[Tensor, Tensor]:
    batch, heads, seq_len, width = query.shape
    query, key, cos, sin = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, cos, sin))
    to_query, to_key = _like(query), _like(key)
    half = cos.shape[-1] // 2
    places = None if positions is None else positions.expand(batch, seq_len).contiguous()
    strides = [x.stride(dim) for x in (query, key, to_query, to_key) for dim in (0, 2, 1)]
    tables = (cos.stride(0), sin.stride(0), seq_len)
    tensors = (query, key, to_query, to_key, cos, sin, cos if places is None else places)
    arguments = (*tensors, seq_len, half, width, direction, *strides, *tables)
    flags = {"FROM_PAIRS": from_pairs, "TO_PAIRS": to_pairs, "PLACED": places is not None}
    constants = _constants(heads, key.shape[1], width, 2 * half)
    launch(rotary_program, batch * seq_len, arguments, flags | constants, _WARPS)
    return to_query, to_key


def _constants(heads: int, key_heads: int, width: int, turned: int) -> dict[str, int]:
    half = power_of_two(turned // 2)
    block = min(power_of_two(heads), max(1, _ENTRIES // (2 * half)))
    rest = 0 if turned == width else power_of_two(width - turned)
    return {"HEADS": heads, "KEY_HEADS": key_heads, "BLOCK": block, "HALF": half, "REST": rest}


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, cos, sin, positions, pairs = inputs
    ctx.save_for_backward(cos, sin, positions)
    ctx.pairs = pairs


def _differentiate(ctx: Any, query: Tensor, key: Tensor) -> tuple[Tensor | None, ...]:
    cos, sin, positions = ctx.saved_tensors
    to_query, to_key = _rotary_backward(query, key, cos, sin, positions, ctx.pairs)
    return to_query, to_key, None, None, None, None


_rotary.register_autograd(_differentiate, setup_context=_save)


def _programs(pairs: bool, sizes: Sizes, dtype: str) -> list[Program]:
    narrow = ("query", "key", "to_query", "to_key", "cos", "sin")
    strides = [f"{name}_{dim}" for name in narrow[:4] for dim in "bsh"] + ["cos_s", "sin_s", "half", "width"]
    types = dict.fromkeys(narrow, dtype) | dict.fromkeys(strides, "i32:16")
    types |= {"positions": "int64", "seq_len": "i32", "positions_b": "i32", "direction": "fp32 value"}
    constants = _constants(sizes["heads"], sizes["kv_heads"], sizes["width"], sizes["turned"])
    found = []
    for label, directions in (("forward", (pairs, False)), ("backward", (False, pairs))):
        flags = {"FROM_PAIRS": directions[0], "TO_PAIRS": directions[1], "PLACED": label == "backward"}
        found.append(program(f"rotary_{label}", rotary_program, flags | constants, _WARPS, types))
    return found


rotary_programs = partial(_programs, False)
rotary_pairs_programs = partial(_programs, True)
