"""Steps of AdamW, by Triton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..adamw import WHOLE, Options, Place, Shard
from ..kernel import Sizes
from ..programs.adamw import adamw, adamw_shards
from ..programs.program import Program, program
from . import memory
from .launch import launch

_THREAD_BYTES = 16  # of a parameter: 128 bits
_WARPS = 8
_SIGN = 2**31
_COLUMNS = 10
_PIECE = 1 << 15
"""Elements of a shard that one program steps through: enough for its row of the table to cost nothing beside them."""
_TYPES: dict[torch.dtype, Any] = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


def stepped(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, scale: Tensor, options: Options,
    place: Place = WHOLE,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As `kernels.adamw.stepped_reference`."""
    given = [x.contiguous() for x in (parameter, gradient, first, second)]
    numbers = [place.number, place.width, place.pitch, _signed(options.key)]
    p, m, v = _stepped(*given, scale, _numbers(options), numbers)
    return p, m, v


def step_shards(shards: Sequence[Shard], scale: Tensor, options: Options) -> None:
    """As `kernels.adamw.adamw_steps`, all on one device: one launch for those of the same types."""
    alike: dict[tuple[torch.dtype, torch.dtype, torch.dtype], list[Shard]] = {}
    for shard in shards:
        if shard.parameter.numel():
            types = shard.parameter.dtype, shard.gradient.dtype, shard.first.dtype
            alike.setdefault(types, []).append(shard)
    for types, own in alike.items():
        constants, device = _shard_constants(*types), own[0].parameter.device
        rows = torch.tensor([_row(shard, options) for shard in own], dtype=torch.int64)
        if device.type == "cuda":
            rows = rows.pin_memory()  # the host goes on while the copy is on its way
        pieces = _pieces(tuple(shard.parameter.numel() for shard in own), device)
        arguments = (rows.to(device, non_blocking=True), pieces, scale, *_numbers(options))
        launch(adamw_shards, len(pieces), arguments, constants, _WARPS)


def _row(shard: Shard, options: Options) -> list[int]:
    tensors, place = (shard.parameter, shard.gradient, shard.first, shard.second), shard.place
    addresses = [x.data_ptr() for x in tensors]
    aligned = all(address % _THREAD_BYTES == 0 for address in addresses)
    key = replace(options, seed=shard.seed).key
    return [*addresses, shard.parameter.numel(), place.number, place.width, place.pitch, key, int(aligned)]


@lru_cache(maxsize=64)
def _pieces(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Of tensors with so many elements: rows and first elements, int64 [programs, 2]."""
    found = [(row, first) for row, count in enumerate(counts) for first in range(0, count, _PIECE)]
    return torch.tensor(found, dtype=torch.int64).view(-1, 2).to(device)


def _shard_constants(parameter: torch.dtype, gradient: torch.dtype, states: torch.dtype) -> dict[str, Any]:
    both = _constants(parameter == torch.bfloat16, states == torch.bfloat16)
    types = {"PARAMETER": parameter, "GRADIENT": gradient, "STATES": states}
    return {**{name: _TYPES[each] for name, each in types.items()}, **both, "PIECE": _PIECE, "COLUMNS": _COLUMNS}


def _numbers(options: Options) -> list[float]:
    beta1, beta2 = options.betas
    return [options.shrink, options.step_size, 1 - beta1, beta2, 1 - beta2, options.root, options.eps]


def _signed(key: int) -> int:
    """As 32 bits with a sign."""
    return key - 2 * _SIGN if key >= _SIGN else key


@torch.library.custom_op("meshwright::adamw", mutates_args=())
def _stepped(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, scale: Tensor, numbers: list[float],
    place: list[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    p, m, v = (memory.empty(x.shape, x) for x in (parameter, first, second))
    constants = _constants(parameter.dtype == torch.bfloat16, first.dtype == torch.bfloat16)
    arguments = (parameter, gradient, first, second, p, m, v, scale, parameter.numel(), *place, *numbers)
    programs = -(-parameter.numel() // constants["BLOCK"])
    launch(adamw, programs, arguments, constants | {"RUNS": place[2] > 0}, _WARPS)
    return p, m, v


@_stepped.register_fake
def _(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, scale: Tensor, numbers: list[float],
    place: list[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(parameter), torch.empty_like(first), torch.empty_like(second)


def _constants(parameter: bool, states: bool) -> dict[str, Any]:
    block = _THREAD_BYTES // (2 if parameter else 4) * 32 * _WARPS
    return {"ROUND_PARAMETER": parameter, "ROUND_STATES": states, "BLOCK": block}


def programs(sizes: Sizes, dtype: str) -> list[Program]:
    """Parameters and states in float32 with gradients of `dtype`, and all of them in bfloat16; of one tensor, and of
    many in float32 with states in either."""
    names = ("parameter", "first", "second", "to_parameter", "to_first", "to_second")
    floats = ("shrink", "step_size", "weight1", "beta2", "weight2", "root", "eps")
    numbers = dict.fromkeys(("number", "pitch", "key"), "i32") | {"width": "i64"}
    types = {"scale": "fp32", "count": "i32:16"} | numbers | dict.fromkeys(floats, "fp32 value")
    wide = types | dict.fromkeys(names, "fp32") | {"gradient": dtype}
    narrow = types | dict.fromkeys((*names, "gradient"), "bf16")
    tables = {"shards": "int64", "pieces": "int64", "scale": "fp32"} | dict.fromkeys(floats, "fp32 value")
    made = [
        program("adamw", adamw, _constants(False, False) | {"RUNS": False}, _WARPS, wide),
        program("adamw_rounded", adamw, _constants(True, True) | {"RUNS": False}, _WARPS, narrow),
    ]
    for name, states in (("adamw_shards", torch.float32), ("adamw_shards_rounded", torch.bfloat16)):
        constants = _shard_constants(torch.float32, torch.float32, states)
        made.append(program(name, adamw_shards, constants, _WARPS, tables))
    return made
