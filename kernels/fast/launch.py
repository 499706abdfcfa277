"""Launch: how programs are started, the same for all."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


def pinned(fusion: bool) -> dict[str, bool]:
    """Compiler options whose defaults change between versions of Triton (3.10: no fused multiply-add)."""
    return {"enable_fp_fusion": fusion}


def launch(
    function: Any,
    programs: int,
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
    warps: int,
    *,
    fusion: bool = True,
) -> None:
    """Run so many programs on the device of the first argument; none for empty tensors. Without `fusion` products and
    sums are rounded one by one, as the reference does it."""
    if programs == 0:
        return
    device = next(x.device for x in arguments if isinstance(x, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        function[(programs,)](*arguments, **constants, num_warps=warps, **pinned(fusion))


def multiprocessors(x: Tensor) -> int:
    """Of the device of `x`; of a CPU, where programs are interpreted, a few, so that partial sums occur."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 2


def power_of_two(n: int) -> int:
    """The next one."""
    return 1 << max(0, n - 1).bit_length()
