"""Gated activations, by Triton."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..facts.gated import ACTIVATIONS
from ..kernel import Sizes
from ..programs.gated import gated_backward, gated_forward
from ..programs.program import Program, program
from . import memory
from .launch import launch, power_of_two

_KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
_BLOCK, _WARPS = 2048, 4  # 16 entries a thread


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """As `kernels.swiglu.gated`."""
    found: Tensor = _gated(gate, up, _KINDS[activation])
    return found


swiglu = partial(gated, activation="silu")
geglu = partial(gated, activation="gelu")
geglu_tanh = partial(gated, activation="gelu_tanh")
reglu = partial(gated, activation="relu")


@torch.library.custom_op("meshwright::gated", mutates_args=())
def _gated(gate: Tensor, up: Tensor, kind: int) -> Tensor:
    rows = memory.Rows.of(gate)
    gates, ups = _flat(rows, gate, up)
    result = memory.empty(gates.shape, gate)
    blocks, constants = _blocks(gates)
    arguments = (gates, ups, result, gates.shape[1], gates.stride(0), ups.stride(0), blocks)
    launch(gated_forward, blocks * len(gates), arguments, {"KIND": kind, **constants}, _WARPS)
    return rows.restore(result.view(rows.count, gate.shape[-1]))


@_gated.register_fake
def _(gate: Tensor, up: Tensor, kind: int) -> Tensor:
    rows = memory.Rows.of(gate)
    return rows.restore(memory.empty((rows.count, gate.shape[-1]), gate))


def _flat(rows: memory.Rows, *tensors: Tensor) -> list[Tensor]:
    """As matrices of rows; as a single row where all are contiguous."""
    matrices = [rows.matrix(x) for x in tensors]
    whole = all(x.is_contiguous() for x in matrices)
    return [x.view(1, -1) if whole else x for x in matrices]


def _blocks(matrix: Tensor) -> tuple[int, dict[str, int]]:
    """Blocks of a row, and how large they are: no more than a row wants."""
    block = min(_BLOCK, max(16, power_of_two(matrix.shape[1])))
    return -(-matrix.shape[1] // block), {"BLOCK": block}


@torch.library.custom_op("meshwright::gated_backward", mutates_args=())
def _gated_backward(gradient: Tensor, gate: Tensor, up: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    rows = memory.Rows.of(gate)
    slopes, gates, ups = _flat(rows, gradient, gate, up)
    to_gate, to_up = memory.empty(gates.shape, gate), memory.empty(gates.shape, up)
    blocks, constants = _blocks(gates)
    strides = (slopes.stride(0), gates.stride(0), ups.stride(0))
    arguments = (slopes, gates, ups, to_gate, to_up, gates.shape[1], *strides, blocks)
    launch(gated_backward, blocks * len(gates), arguments, {"KIND": kind, **constants}, _WARPS)
    sizes = (rows.count, gate.shape[-1])
    return rows.restore(to_gate.view(sizes)), rows.restore(to_up.view(sizes))


@_gated_backward.register_fake
def _(gradient: Tensor, gate: Tensor, up: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    rows = memory.Rows.of(gate)
    sizes = (rows.count, gate.shape[-1])
    return rows.restore(memory.empty(sizes, gate)), rows.restore(memory.empty(sizes, up))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    gate, up, kind = inputs
    ctx.save_for_backward(gate, up)
    ctx.kind = kind


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    to_gate, to_up = _gated_backward(gradient, *ctx.saved_tensors, ctx.kind)
    return to_gate, to_up, None


_gated.register_autograd(_differentiate, setup_context=_save)


def _programs(name: str, sizes: Sizes, dtype: str) -> list[Program]:
    """As they are launched for these sizes."""
    narrow = ("gate", "up", "result", "gradient", "to_gate", "to_up")
    strides = ("width", "gate_stride", "up_stride", "gradient_stride")
    types = dict.fromkeys(narrow, dtype) | dict.fromkeys(strides, "i32:16") | {"blocks": "i32"}
    constants = {"KIND": _KINDS[ACTIVATIONS[name]], "BLOCK": min(_BLOCK, power_of_two(sizes["width"]))}
    return [
        program("gated_forward", gated_forward, constants, _WARPS, types),
        program("gated_backward", gated_backward, constants, _WARPS, types),
    ]


swiglu_programs = partial(_programs, "swiglu")
geglu_programs = partial(_programs, "geglu")
geglu_tanh_programs = partial(_programs, "geglu_tanh")
reglu_programs = partial(_programs, "reglu")
