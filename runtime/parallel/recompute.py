"""Activation recomputation (arXiv:1604.06174): keep inputs, run operations again in the backward pass.

Of a whole layer, or selectively (arXiv:2205.05198, section 5) of the operations that the plan names. What is
recomputed draws nothing (dropout follows from counters), so no generator state is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint, noop_context_fn

from ...planner.configuration import Module
from ..blocks.latent import LatentAttention
from ..blocks.moe import Moe
from ..blocks.transformer import Layer
from .rerun import Scope

Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
"""Makes what surrounds a forward pass and each repetition of it: whoever keeps results beyond inputs learns from it."""


def recompute_layer(layer: nn.Module, contexts: Contexts = noop_context_fn) -> None:
    """Let `layer`, or any module, keep nothing but its input."""
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    layer.forward = partial(again, layer.forward)


def recompute_operations(layer: Layer, operations: Collection[Module]) -> None:
    """Let `layer` keep nothing of these operations but what goes into them; `planner.cost.activations` says how much
    each saves. What a layer does not have is left alone."""
    if "core_attn" in operations:
        recompute_layer(layer.self_attn.core)
    if isinstance(layer.mlp, Moe):
        _recompute_experts(layer.mlp, operations)
    elif "mlp" in operations:
        recompute_layer(layer.mlp)
    if set(operations) & {"layernorm", "moe_act", "mla_up_proj"}:
        _forget(layer, Scope(layer), operations)


def _recompute_experts(moe: Moe, operations: Collection[Module]) -> None:
    if "moe" in operations:
        recompute_layer(moe)
    elif "mlp" in operations and moe.shared is not None:
        recompute_layer(moe.shared)


def _forget(layer: Layer, scope: Scope, operations: Collection[Module]) -> None:
    """Of operations whose outputs are what is large: others keep them as their inputs."""
    if "layernorm" in operations:
        for name, block in layer.named_children():
            if name.endswith("layernorm"):
                scope.forget(block)
        for block in (layer.self_attn, layer.mlp):
            scope.forget_entry(block)
        scope.forget(layer.self_attn, "to_sequence")
    if "moe_act" in operations and "moe" not in operations and isinstance(layer.mlp, Moe):
        scope.forget(layer.mlp.experts, "activate")
    if "mla_up_proj" in operations and isinstance(layer.self_attn, LatentAttention):
        scope.forget(layer.self_attn, "_query")
        scope.forget(layer.self_attn, "_key_value")
