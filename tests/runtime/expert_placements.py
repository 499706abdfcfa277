"""Placements of experts for tests: permutations, and replicas on other ranks."""

from __future__ import annotations

import random
from typing import Any

Slots = tuple[tuple[int, ...], ...]


def shuffled(layers: int, experts: int, seed: int = 0) -> dict[str, Slots]:
    """Another permutation for every layer."""
    draw = random.Random(seed)
    return {"slots": tuple(tuple(draw.sample(range(experts), experts)) for _ in range(layers))}


def replicated(layers: int, experts: int, ep: int, replicas: int, seed: int = 0) -> dict[str, Slots]:
    """Experts in any order, with `replicas` more slots of some of them, an expert at most once on a rank of `ep`."""
    draw = random.Random(seed)
    return {"slots": tuple(_layer(draw, experts, ep, replicas) for _ in range(layers))}


def _layer(draw: random.Random, experts: int, ep: int, replicas: int) -> tuple[int, ...]:
    each = (experts + replicas) // ep
    order = draw.sample(range(experts), experts)
    ranks = [order[rank::ep] for rank in range(ep)]
    for held in ranks:
        others = [expert for expert in range(experts) if expert not in held]
        held += draw.sample(others, each - len(held))
        draw.shuffle(held)
    return tuple(expert for held in ranks for expert in held)


def placed(config: dict[str, Any], ep: int, replicas: int = 0, seed: int = 0) -> dict[str, Any]:
    """Options of plans.make_plan: a placement of the experts of a small config."""
    experts = config.get("num_local_experts") or config.get("num_experts") or config["n_routed_experts"]
    layers = config["num_hidden_layers"] - config.get("first_k_dense_replace", 0)
    layers -= len(config.get("mlp_only_layers", ()))
    if replicas == 0:
        return {"ep": ep, "placement": shuffled(layers, experts, seed)}
    return {
        "ep": ep, "expert_replicas": replicas, "placement": replicated(layers, experts, ep, replicas, seed),
    }  # fmt: skip
