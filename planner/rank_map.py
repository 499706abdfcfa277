"""Rank map: which device each logical rank of a plan has. Empty is the standard order: those that can be
used, in their order.

Logical ranks are what a mesh counts, tp fastest; devices are numbered group by group, node by node. The map moves ranks
to devices and nothing else: coordinates, data, checkpoints and names follow logical ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..clusters.check import rank_map_problems
from ..clusters.schema import Cluster
from ..errors import Problem
from .plan import Plan


def problems(plan: Plan) -> Iterator[Problem]:
    """What keeps a plan's map from being one of its world, in the words of a plan file."""
    world, given = plan.configuration.mesh.world, len(plan.rank_map)
    if given and given != world:
        rule = f"must have one device for each of the {world} ranks of the mesh, or be empty"
        yield Problem("rank_map", f"{given} devices", rule, "[]")
        return
    yield from rank_map_problems(plan.cluster, plan.rank_map)


def kept(cluster: Cluster, rank_map: Sequence[int], world: int) -> tuple[int, ...]:
    """The map where it still suits a changed cluster and mesh; else the standard order."""
    suits = len(rank_map) == world and not any(rank_map_problems(cluster, rank_map))
    return tuple(rank_map) if suits else ()
