"""Steps of AdamW, by Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from ..adamw import Options
from ..kernel import Sizes
from ..programs.adamw import adamw
from ..programs.program import Program, program
from . import memory
from .launch import launch

_THREAD_BYTES = 16  # of a moment: 128 bits
_WARPS = 8
_SIGN = 2**31


def stepped(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, scale: Tensor, options: Options, number: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """As `kernels.adamw.stepped_reference`."""
    given = [x.contiguous() for x in (parameter, gradient, first, second)]
    p, m, v = _stepped(*given, scale, _numbers(options), options.key, number)
    return p, m, v


def step_into(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, scale: Tensor, options: Options, number: int
) -> None:
    """As `stepped`, and the results take the place of what they come from."""
    into = (parameter, first, second)
    _launch((parameter, gradient, first, second), into, scale, _numbers(options), options.key, number)


def _numbers(options: Options) -> list[float]:
    beta1, beta2 = options.betas
    return [options.shrink, options.step_size, 1 - beta1, beta2, 1 - beta2, options.root, options.eps]


@torch.library.custom_op("meshwright::adamw", mutates_args=())
def _stepped(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, scale: Tensor, numbers: list[float],
    key: int, number: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    p, m, v = (memory.empty(x.shape, x) for x in (parameter, first, second))
    _launch((parameter, gradient, first, second), (p, m, v), scale, numbers, key, number)
    return p, m, v


@_stepped.register_fake
def _(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, scale: Tensor, numbers: list[float],
    key: int, number: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(parameter), torch.empty_like(first), torch.empty_like(second)


def _launch(
    given: tuple[Tensor, Tensor, Tensor, Tensor], into: tuple[Tensor, Tensor, Tensor], scale: Tensor,
    numbers: list[float], key: int, number: int,
) -> None:  # fmt: skip
    count = given[0].numel()
    signed = key - 2 * _SIGN if key >= _SIGN else key  # 32 bits whatever the key
    constants = _constants(given[0].dtype == torch.bfloat16, given[2].dtype == torch.bfloat16)
    arguments = (*given, *into, scale, count, number, signed, *numbers)
    launch(adamw, -(-count // constants["BLOCK"]), arguments, constants, _WARPS)


def _constants(parameter: bool, states: bool) -> dict[str, int]:
    block = _THREAD_BYTES // (2 if states else 4) * 32 * _WARPS
    return {"ROUND_PARAMETER": parameter, "ROUND_STATES": states, "BLOCK": block}


def programs(sizes: Sizes, dtype: str) -> list[Program]:
    """Parameters and states in float32 with gradients of `dtype`, and all of them in bfloat16."""
    names = ("parameter", "first", "second", "to_parameter", "to_first", "to_second")
    floats = ("shrink", "step_size", "weight1", "beta2", "weight2", "root", "eps")
    types = {"scale": "fp32", "count": "i32:16", "number": "i32", "key": "i32"} | dict.fromkeys(floats, "fp32 value")
    wide = types | dict.fromkeys(names, "fp32") | {"gradient": dtype}
    narrow = types | dict.fromkeys((*names, "gradient"), "bf16")
    return [
        program("adamw", adamw, _constants(False, False), _WARPS, wide),
        program("adamw_rounded", adamw, _constants(True, True), _WARPS, narrow),
    ]
