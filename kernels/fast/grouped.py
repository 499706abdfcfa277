"""Grouped products by Triton, for sizes and types that PyTorch has none for. The host never learns the counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernel import Sizes
from ..programs.grouped import grouped_rows, grouped_weights
from ..programs.program import Program, program
from . import memory
from .launch import launch

Tiles = dict[str, int | str]
_NARROW: Tiles = {"ROWS": 128, "COLUMNS": 128, "STEP": 32, "PRECISION": "tf32"}
_WIDE: Tiles = {"ROWS": 64, "COLUMNS": 64, "STEP": 16, "PRECISION": "ieee"}  # float32, as PyTorch's own by default
_WARPS = 8


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """As `kernels.grouped.grouped_linear`."""
    found: Tensor = _grouped(x, weight, counts)
    return found


def _tiles(wide: bool) -> Tiles:
    return _WIDE if wide else _NARROW


def _schedule(rows: int, counts: Tensor, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whose each tile is, tiles up to each expert, rows up to each expert. So many tiles are enough for any counts."""
    tile_ends = ((counts + height - 1) // height).cumsum(0)
    most = rows // height + len(counts)
    tiles = torch.arange(most, device=counts.device)
    return torch.searchsorted(tile_ends, tiles, right=True), tile_ends, counts.cumsum(0)


def _product(x: Tensor, weight: Tensor, counts: Tensor, transposed: bool) -> Tensor:
    """Rows times matrices [experts, a, b], contracted over b, or over a if `transposed`."""
    x, weight = _rows(x), weight.contiguous()
    experts, a, b = weight.shape
    inner, outer = (a, b) if transposed else (b, a)
    tiles = _tiles(x.dtype == torch.float32)
    owners, tile_ends, ends = _schedule(len(x), counts, int(tiles["ROWS"]))
    found = memory.empty((len(x), outer), x)
    strides = (x.stride(0), *((b, 1) if transposed else (1, b)))
    arguments = (x, weight, owners, tile_ends, ends, counts, found, experts, *strides)
    programs = len(owners) * -(-outer // int(tiles["COLUMNS"])) if len(x) else 0
    launch(grouped_rows, programs, arguments, {"INNER": inner, "OUTER": outer, **tiles}, _WARPS)
    return found


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


@torch.library.custom_op("meshwright::grouped_linear", mutates_args=())
def _grouped(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return _product(x, weight, counts, False)


@_grouped.register_fake
def _(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty(len(x), weight.shape[1])


@torch.library.custom_op("meshwright::grouped_backward", mutates_args=())
def _grouped_backward(gradient: Tensor, x: Tensor, weight: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    gradient, x = _rows(gradient), _rows(x)
    experts, outer, inner = weight.shape
    found, tiles = memory.empty(weight.shape, x), _tiles(x.dtype == torch.float32)
    arguments = (gradient, x, counts.cumsum(0), counts, found, gradient.stride(0), x.stride(0))
    across, down = -(-inner // int(tiles["COLUMNS"])), -(-outer // int(tiles["ROWS"]))
    constants = {"INNER": inner, "OUTER": outer, **tiles}
    launch(grouped_weights, experts * across * down, arguments, constants, _WARPS)
    return _product(gradient, weight, counts, True), found


@_grouped_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    to_x, to_weight = _grouped_backward(gradient, *ctx.saved_tensors)
    return to_x, to_weight, None


_grouped.register_autograd(_differentiate, setup_context=_save)


def programs(sizes: Sizes, dtype: str) -> list[Program]:
    """As they are launched for these sizes."""
    pointers = dict.fromkeys(("tile_experts", "tile_ends", "ends", "counts"), "int64")
    types = pointers | dict.fromkeys(("x", "weight", "to", "gradient"), dtype) | {"experts": "i32"}
    types |= dict.fromkeys(("x_stride", "gradient_stride", "to_inner"), "i32:16") | {"to_outer": "i32"}
    types |= {"to_inner": "i32", "to_outer": "i32:16"}
    constants = {"INNER": sizes["inner"], "OUTER": sizes["outer"], **_tiles(dtype == "fp32")}
    return [
        program(function.__name__, function, constants, _WARPS, types, loads=False, stores=False)
        for function in (grouped_rows, grouped_weights)
    ]
