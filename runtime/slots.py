"""Slots: which expert each matrix of a stacked weight is, where a plan does not leave experts in their order.

A rank of ep holds as many slots as any other, those of rank 0 come first. An expert in several slots has replicas.
Routers, counts, biases and all files (Hugging Face's and our checkpoints) speak of experts; only the stacked weights,
their gradients and optimizer states are in the order of slots.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..planner.plan import Plan
from .blocks.expert_names import stacked_names
from .blocks.shape import Shape

Order = tuple[int, ...]
"""The expert in each slot of a layer."""

Orders = Mapping[str, Order]
"""By the name of the stacked weight; of those that are not among them the order is that of the experts."""


def layer_orders(plan: Plan, shape: Shape) -> dict[int, Order]:
    """By the number of the layer; empty where the plan places nothing."""
    if plan.placement is None or shape.moe is None:
        return {}
    layers = sorted(layer for layer in shape.moe.layers if layer < shape.layers)
    return dict(zip(layers, plan.placement.slots, strict=True))


def orders_of(plan: Plan, shape: Shape) -> dict[str, Order]:
    """By the name of the stacked weight."""
    return {name: order for layer, order in layer_orders(plan, shape).items() for name in stacked_names(layer)}


def slots_by_expert(order: Order) -> list[list[int]]:
    """The slots of each expert, ascending."""
    slots: list[list[int]] = [[] for _ in range(max(order) + 1)]
    for slot, expert in enumerate(order):
        slots[expert].append(slot)
    return slots


def has_replicas(order: Order) -> bool:
    return len(set(order)) < len(order)
