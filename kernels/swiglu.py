"""Activations of feed-forward blocks, and the gated form of them (arXiv:2002.05202)."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from . import expect
from .facts.gated import ACTIVATIONS
from .switch import runs_fast

_KERNELS = {activation: kernel for kernel, activation in ACTIVATIONS.items()}


def activate(x: Tensor, name: str) -> Tensor:
    """`x` through silu, gelu (by the error function), gelu_tanh (the approximation of GPT-2 and Gemma) or relu."""
    if name == "silu":
        return F.silu(x)
    if name == "relu":
        return F.relu(x)
    return F.gelu(x, approximate={"gelu": "none", "gelu_tanh": "tanh"}[name])


def gated(gate: Tensor, up: Tensor, name: str) -> Tensor:
    """activation(gate) * up, element by element, of tensors [..., width] of one shape and type.

    Of a gate that is a part of a wider tensor, as of a packed projection, no copy is made.
    """
    _check(gate, up)
    if gate.ndim > 0 and runs_fast(_KERNELS[name], gate, rows=gate.shape[:-1].numel(), width=gate.shape[-1]):
        from .fast import gated as fast

        return fast.gated(gate, up, name)
    return gated_reference(gate, up, name)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, element by element."""
    return gated(gate, up, "silu")


def gated_reference(gate: Tensor, up: Tensor, name: str) -> Tensor:
    """`gated` in plain PyTorch."""
    return activate(gate, name) * up


swiglu_reference = partial(gated_reference, name="silu")
geglu_reference = partial(gated_reference, name="gelu")
geglu_tanh_reference = partial(gated_reference, name="gelu_tanh")
reglu_reference = partial(gated_reference, name="relu")


def _check(gate: Tensor, up: Tensor) -> None:
    expect.shape("gated", "up", up, gate.shape)
    expect.floating("gated", gate=gate)
    expect.dtype("gated", "up", up, gate.dtype)
    expect.one_device("gated", gate=gate, up=up)
