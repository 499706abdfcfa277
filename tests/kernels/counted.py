"""Counted: what plain PyTorch moves and keeps, seen as it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PARAMETERS = ("weight", "bias", "cos", "sin")
_TWICE = "aten::native_layer_norm_backward"
"""On CUDA two kernels (aten/src/ATen/native/cuda/layer_norm_kernel.cu), which both read the gradient and the input."""
_DRAWN = ("aten::randn", "aten::normal_")  # gradients that a test makes up


class Moved(TorchDispatchMode):
    """Bytes of all operators' inputs and outputs; views move nothing, and numbers repeated by a stride of 0 little."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and 0 not in x.stride()]
        found = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if not func.is_view and not _made_up(func, given, found):
            again = given[:2] if func.name() == _TWICE else []
            self.bytes += sum(x.nbytes for x in given + again + found)
        return result


def _made_up(func: Any, given: list[Tensor], found: list[Tensor]) -> bool:
    """Draws a gradient, brings it to its type, or is a view that has no mark of one."""
    memory = {x.untyped_storage().data_ptr() for x in given}
    alias = bool(found) and all(x.untyped_storage().data_ptr() in memory for x in found)
    double = any(x.dtype == torch.float64 for x in given + found)
    return func.name() in _DRAWN or double or (alias and not func._schema.is_mutable)


class Kept(saved_tensors_hooks):
    """Bytes that autograd keeps for the backward pass, but for parameters and tables."""

    def __init__(self, given: Mapping[str, Any]):
        self._own = {given[name].untyped_storage().data_ptr() for name in _PARAMETERS if name in given}
        self._found: dict[int, Tensor] = {}
        super().__init__(self._pack, lambda x: x)

    def _pack(self, x: Tensor) -> Tensor:
        before = self._found.get(x.data_ptr())  # parts of a tensor count each, a tensor and a view of it once
        if x.untyped_storage().data_ptr() not in self._own and (before is None or before.nbytes < x.nbytes):
            self._found[x.data_ptr()] = x
        return x

    @property
    def bytes(self) -> int:
        """Of tensors that are kept more than once, once."""
        return sum(x.nbytes for x in self._found.values())
