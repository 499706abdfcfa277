"""Activations of feed-forward blocks, and the gated form of them (arXiv:2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def activate(x: Tensor, name: str) -> Tensor:
    """`x` through silu, gelu (by the error function), gelu_tanh (the approximation of GPT-2 and Gemma) or relu."""
    if name == "silu":
        return F.silu(x)
    if name == "relu":
        return F.relu(x)
    return F.gelu(x, approximate={"gelu": "none", "gelu_tanh": "tanh"}[name])


def gated(gate: Tensor, up: Tensor, name: str) -> Tensor:
    """activation(gate) * up, element by element."""
    return swiglu(gate, up) if name == "silu" else activate(gate, name) * up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, element by element."""
    return F.silu(gate) * up
