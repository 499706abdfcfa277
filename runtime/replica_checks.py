"""What keeps replicas of experts, or shuffled tokens, from running in a plan that is legal."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Problem
from ..planner.plan import Plan
from .blocks.shape import read_shape
from .recipe import Recipe

_LANES = 16
"""Numbers in the widest vectors of a CPU. What is left over at the end of a tensor is computed one by one and may round
otherwise, which would let replicas drift apart: they stand in different places of their tensors."""


def replica_problems(plan: Plan) -> Iterator[Problem]:
    """Replicas of nobody knows what, and those that the host would not keep equal to the last bit."""
    if plan.expert_replicas == 0:
        return
    if plan.placement is None:
        rule = "needs a placement that says which experts have replicas, and where"
        yield Problem("expert_replicas", plan.expert_replicas, rule, "meshwright plan ... --routing trace.jsonl")
    elif _on_host(plan) and (elements := _elements(plan)) % _LANES:
        rule = (
            f"the host's AdamW keeps copies equal only of matrices of a multiple of {_LANES} elements, not {elements}"
        )
        yield Problem("expert_replicas", plan.expert_replicas, rule, "0, without a placement")


def _on_host(plan: Plan) -> bool:
    device = plan.cluster.node_groups[0].device.kind
    return device == "cpu" or plan.offload > 0 or plan.swap_layers > 0


def _elements(plan: Plan) -> int:
    """Of the part of a matrix that a rank updates: `parallel/expert/replicas.py` may cut the hidden size."""
    shape, mesh = read_shape(plan.model.config), plan.configuration.mesh
    assert shape.moe is not None
    each = (shape.moe.experts + plan.expert_replicas) // mesh.ep
    cut = plan.zero > 0 and each % mesh.edp != 0 and shape.hidden % mesh.edp == 0
    return shape.moe.width // mesh.etp * shape.hidden // (mesh.edp if cut else 1)


def capacity_problems(plan: Plan, recipe: Recipe) -> Iterator[Problem]:
    """Capacity is that of an expert, and every replica would have its own; and of the tokens that a rank has, which
    shuffling makes alike."""
    factor = None if recipe.experts is None else recipe.experts.capacity_factor
    if plan.expert_replicas and factor is not None:
        rule = "limits an expert, and dispatch would limit each of its replicas: other tokens would be dropped"
        yield Problem("experts.capacity_factor", factor, rule, "none, or expert_replicas=0")
    if plan.token_homes is not None and factor is not None:
        rule = "limits what experts take of one rank's tokens, which are shuffled so that they choose alike"
        yield Problem("experts.capacity_factor", factor, rule, "none, or a plan without token_homes")
