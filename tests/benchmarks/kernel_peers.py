"""What kernels are timed beside: plain PyTorch, the same compiled, and Liger-Kernel where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from meshwright.kernels.kernel import Kernel, find

Call = Callable[..., Any]


def sides(kernel: Kernel, backend: str) -> dict[str, Call]:
    """Ours and its peers, all with the arguments of the kernel's example."""
    torch._dynamo.reset()
    reference: Call = find(kernel.reference)
    compiled = torch.compile(reference, backend=backend, dynamic=False)
    every = {"ours": find(kernel.fast), "eager": reference, "compile": compiled}
    peer = _LIGER.get(kernel.name)
    return every if peer is None else every | {"liger": peer}


def _of(module: str, name: str) -> Call:
    """An autograd function of Liger-Kernel. Raises ImportError where it is not installed."""
    found: Call = getattr(importlib.import_module(f"liger_kernel.ops.{module}"), name).apply
    return found


def _rms_norm(offset: float, mode: str, *, x: Any, weight: Any, eps: float) -> Any:
    return _of("rms_norm", "LigerRMSNormFunction")(x, weight, eps, offset, mode, False)


def _add_rms_norm(offset: float, mode: str, *, x: Any, residual: Any, weight: Any, eps: float) -> Any:
    return _of("fused_add_rms_norm", "LigerFusedAddRMSNormFunction")(x, residual, weight, eps, offset, mode, False)


def _layer_norm(*, x: Any, weight: Any, bias: Any, eps: float) -> Any:
    return _of("layer_norm", "LigerLayerNormFunction")(x, weight, bias, eps)


def _swiglu(*, gate: Any, up: Any) -> Any:
    return _of("swiglu", "LigerSiLUMulFunction")(gate, up)


def _geglu(*, gate: Any, up: Any) -> Any:
    return _of("geglu", "LigerGELUMulFunction")(gate, up)


def _rotary(*, query: Any, key: Any, cos: Any, sin: Any) -> Any:
    """It turns its arguments in place, so it is given copies: its own time is less by that of a copy where it may
    overwrite them."""
    copies = (query.clone(), key.clone())
    return _of("rope", "LigerRopeFunction")(*copies, cos.unsqueeze(0), sin.unsqueeze(0))


def _cross_entropy(*, logits: Any, targets: Any) -> Any:
    """It puts the gradient in the place of the logits, so it is given a copy."""
    copy = logits.clone().requires_grad_()
    with torch.enable_grad():
        return _of("cross_entropy", "LigerCrossEntropyFunction")(copy, targets, None, -100, 0.0, 0.0, "sum")[0]


def _linear_cross_entropy(*, hidden: Any, weight: Any, targets: Any, chunks: int) -> Any:
    """It finds the number of chunks itself."""
    function = _of("fused_linear_cross_entropy", "LigerFusedLinearCrossEntropyFunction")
    return function(hidden, weight, targets, None, None, -100, 0.0, 0.0, "sum")[0]


_LIGER: dict[str, Call] = {
    "rms_norm": partial(_rms_norm, 0.0, "llama"),
    "offset_rms_norm": partial(_rms_norm, 1.0, "gemma"),
    "layer_norm": _layer_norm,
    "add_rms_norm": partial(_add_rms_norm, 0.0, "llama"),
    "add_offset_rms_norm": partial(_add_rms_norm, 1.0, "gemma"),
    "swiglu": _swiglu,
    "geglu_tanh": _geglu,
    "rotary": _rotary,
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
}
"""Liger-Kernel 0.8."""
