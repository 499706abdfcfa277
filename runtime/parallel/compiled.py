"""Compilation: torch.compile of every layer by itself, so that equal layers share one compiled graph.

What ZeRO hangs around a layer stays outside of what is compiled.
"""

from __future__ import annotations

import torch

from ..blocks.moe import Moe
from ..blocks.transformer import Layer

INDUCTOR = "inductor"


def compile_layer(layer: Layer, backend: str) -> None:
    """Compile a layer. Blocks of experts run as they are: how many tokens each expert gets
    is known only when they are there."""
    if isinstance(layer.mlp, Moe):
        layer.mlp.forward = torch.compiler.disable(layer.mlp.forward)  # type: ignore[no-untyped-call, method-assign]
    layer.forward = torch.compile(layer.forward, backend=backend)  # type: ignore[method-assign]
