"""Which workers run on a node, and on what."""

from __future__ import annotations

from typing import Literal

from ..planner.plan import Plan


def device_type(plan: Plan) -> Literal["cuda", "cpu"]:
    """As torch names it; ROCm builds of torch answer to cuda."""
    return "cpu" if plan.cluster.node_groups[0].device.kind == "cpu" else "cuda"


def logical_rank(plan: Plan, process: int) -> int:
    """The rank of a plan that a process runs.

    Launchers number processes node by node. Process i has the i-th of the devices that the plan uses, in their order,
    and runs the rank that the plan's map puts there. From then on it is this rank to everything: meshes, data,
    checkpoints, names in errors; only its device is that of the process.
    """
    if not plan.rank_map:
        return process
    return plan.rank_map.index(sorted(plan.rank_map)[process])


def workers_per_node(plan: Plan, nnodes: int) -> int:
    """Workers of each of `nnodes` nodes, rounded up."""
    return -(-plan.configuration.mesh.world // nnodes)
