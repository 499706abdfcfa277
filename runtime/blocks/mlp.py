"""Mlp: the dense feed-forward block, gated or not."""

from __future__ import annotations

from torch import Tensor, nn

from ...kernels.swiglu import activate, gated
from .linear import Linear
from .shape import Shape


class Mlp(nn.Module):
    """down(activation(gate(x)) * up(x)), or without a gate down(activation(up(x))); [batch, seq_len, hidden] to the
    same. `width` is that of the shape's dense blocks unless it is given."""

    def __init__(self, shape: Shape, width: int | None = None):
        super().__init__()
        width = shape.intermediate if width is None else width
        self.activation = shape.activation
        self.gate_proj = Linear(shape.hidden, width, bias=shape.mlp_bias) if shape.gated else None
        self.up_proj = Linear(shape.hidden, width, bias=shape.mlp_bias)
        self.down_proj = Linear(width, shape.hidden, bias=shape.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            inner = activate(self.up_proj(x), self.activation)
        else:
            inner = gated(self.gate_proj(x), self.up_proj(x), self.activation)
        hidden: Tensor = self.down_proj(inner)
        return hidden
