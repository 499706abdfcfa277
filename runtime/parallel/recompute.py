"""Activation recomputation (arXiv:1604.06174): keep inputs, run operations again in the backward pass.

Of a whole layer, or selectively (arXiv:2205.05198, section 5) of the operations that the plan names. Nothing that is
recomputed is random, so no generator state is kept.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ...planner.cost.activations import Module
from ..blocks.transformer import Layer
from .rerun import Scope

NORMS = ("input_layernorm", "post_attention_layernorm")


def recompute_layer(layer: nn.Module) -> None:
    """Let `layer` keep nothing but its input."""
    layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def recompute_operations(layer: Layer, operations: Collection[Module]) -> None:
    """Let `layer` keep nothing of these operations but what goes into them: what `planner.cost.activations` says each
    of them saves."""
    if "core_attn" in operations:
        recompute_layer(layer.self_attn.core)
    if "mlp" in operations:
        recompute_layer(layer.mlp)
    if "layernorm" in operations:
        scope = Scope(layer)
        for name in NORMS:
            scope.forget(getattr(layer, name))
