"""Checksums of tensors, by Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernel import Sizes
from ..programs import checksum as programs_of
from ..programs.program import Program, program
from . import memory
from .launch import launch

_BLOCK, _WARPS = 4096, 8
_MASK_BITS = 64


def checksum(words: Tensor, first: int, width: int, stride: int) -> Tensor:
    """As `kernels.checksum.checksum_reference`."""
    found: Tensor = _checksum(words, first, width, stride)
    return found


@torch.library.custom_op("meshwright::checksum", mutates_args=())
def _checksum(words: Tensor, first: int, width: int, stride: int) -> Tensor:
    words = words.contiguous()
    programs = -(-words.numel() // _BLOCK)
    partial = memory.empty((programs,), words, torch.int64)
    arguments = (words, partial, words.numel(), max(1, width), first, stride)
    constants = _constants(words.element_size(), width >= words.numel())
    launch(programs_of.checksum, programs, arguments, constants, _WARPS)
    return partial.sum()


@_checksum.register_fake
def _(words: Tensor, first: int, width: int, stride: int) -> Tensor:
    return words.new_empty((), dtype=torch.int64)


def _constants(item_bytes: int, run: bool) -> dict[str, int]:
    bits = 8 * item_bytes
    return {"MASK": 0 if bits == _MASK_BITS else 2**bits - 1, "RUN": run, "BLOCK": _BLOCK}


def programs(sizes: Sizes, dtype: str) -> list[Program]:
    """As it is launched for these sizes."""
    item, pointer = {"bf16": (2, "*i16"), "fp16": (2, "*i16"), "fp32": (4, "*i32")}[dtype]
    types = {"words": f"{pointer}:16", "partial": "int64", "count": "i32:16", "width": "i32:16"}
    types |= {"first": "i32", "stride": "i32:16"}
    made = (_constants(item, run) for run in (False, True))
    return [program("checksum", programs_of.checksum, constants, _WARPS, types, stores=False) for constants in made]
