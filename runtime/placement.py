"""Which workers run on a node, and on what."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from ..clusters.topology import domain_devices
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


def local_device(plan: Plan, rank: int, local_rank: int, visible: int) -> int:
    """Which of the `visible` devices of its node a rank takes.

    Where a map leaves some out and all of the node are visible: the one that the map says. Where a site shows a process
    fewer, the missing ones are not among them: those that are there in their order, and of one alone (srun
    --gpus-per-task) number 0.
    """
    if plan.rank_map:
        group, _, device = _place(plan, plan.rank_map[rank])
        if visible == plan.cluster.node_groups[group].devices_per_node:
            return device
    return local_rank % max(1, visible)


def devices_of_nodes(plan: Plan) -> list[int]:
    """How many devices a plan's map has of each node that it has any of, in the order of the nodes."""
    return list(Counter(_place(plan, device)[:2] for device in sorted(plan.rank_map)).values())


def domain_of(plan: Plan, rank: int) -> tuple[int, int]:
    """Node group of the device of a rank, and which of its domains: devices that the fast fabric joins, mostly those of
    a node."""
    group, device = _in_group(plan, plan.rank_map[rank] if plan.rank_map else rank)
    return group, device // domain_devices(plan.cluster.node_groups[group])


def _place(plan: Plan, device: int) -> tuple[int, int, int]:
    """Node group, node and device in the node, of the number of a device."""
    group, left = _in_group(plan, device)
    return group, *divmod(left, plan.cluster.node_groups[group].devices_per_node)


def _in_group(plan: Plan, device: int) -> tuple[int, int]:
    """Node group, and number in it, of a device."""
    group, left = 0, device
    while left >= plan.cluster.node_groups[group].num_devices:
        group, left = group + 1, left - plan.cluster.node_groups[group].num_devices
    return group, left


def workers_per_node(plan: Plan, nnodes: int) -> int:
    """Workers of each of `nnodes` nodes, rounded up."""
    return -(-plan.configuration.mesh.world // nnodes)
