"""Contingency plans: for each way to lose some nodes the best plan for what is left, found before it is needed.

What was pinned stays but for `dp`, which follows from the devices, or where that leaves nothing is given up. A
checkpoint moves to any mesh, and the global batch stays: where no mesh of all that is left divides it, replicas have
uneven shares of it, or nodes stay idle, whichever is faster. Tried are the largest numbers of nodes on which some mesh
divides it, the largest on which the plan's own pipeline, context and tensor parallelism does, and that pipeline and
those found on all of what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

from ...clusters.part import first_devices, node_sizes, nodes_of, without_nodes
from ...clusters.schema import Cluster
from ...errors import InfeasibleError, InputError
from ..contingency import changed_fields, words
from ..legality.shares import even_shares
from ..pins import Pins
from ..plan import Contingency, Plan
from .request import Progress, Request
from .search import find_plan
from .space import meshes

TRIED = 2


def with_contingency(request: Request, plan: Plan, nodes: int, progress: Progress = lambda done, total: None) -> Plan:
    """The plan with what to run for up to `nodes` nodes lost, of whichever groups. `progress(done, total)`: losses.

    A loss that leaves nothing which holds the job has no contingency. Raises InputError where the cluster has no more
    nodes than that.
    """
    groups = nodes_of(plan.cluster)
    in_use = sum(groups.values())
    if nodes >= in_use:
        rule = f"must be below the {in_use} nodes in use" if in_use > 1 else "leaves nothing of the one node in use"
        raise InputError.single("command line", "--contingency", nodes, rule, f"--contingency {in_use - 1}")
    losses = list(_losses(groups, nodes))
    found, why = list[Contingency](), list(plan.why)
    for done, lost in enumerate(losses):
        held = _contingency(request, plan, lost)
        found += [held] if held else []
        why += [] if held else [f"With {words(lost)} lost, nothing that is left holds the job."]
        progress(done + 1, len(losses))
    return plan.model_copy(update={"contingency": tuple(found), "why": tuple(why)})


def _losses(groups: dict[str, int], nodes: int) -> Iterator[dict[str, int]]:
    """One node before two; of each group no more than it has."""
    for count in range(1, nodes + 1):
        for names in combinations_with_replacement(groups, count):
            lost = Counter(names)
            if all(groups[name] >= gone for name, gone in lost.items()):
                yield dict(lost)


def _contingency(request: Request, plan: Plan, lost: dict[str, int]) -> Contingency | None:
    left = without_nodes(plan.cluster, lost)
    if left is None:
        return None
    found = list[Plan]()
    for pins in (replace(request.pins, dp=None), Pins()):
        same = replace(request, pins=pins, rank_map=(), deadline_s=None, tokens=None, top=0)
        found = found or [each for each in _all_planned(same, plan, left) if each]
    if not found:
        return None
    best = min(found, key=lambda each: each.proof.value or each.predicted.step_time_s)
    return Contingency(
        lost=lost,
        devices=best.cluster.num_devices if best.rank_map else best.configuration.mesh.world,
        step_time_s=best.predicted.step_time_s,
        slower_by=best.predicted.step_time_s / plan.predicted.step_time_s - 1,
        peak_memory_bytes=max(best.predicted.peak_memory_bytes),
        fields=changed_fields(plan, best),
        proof=best.proof,
    )


def _all_planned(request: Request, plan: Plan, left: Cluster) -> Iterator[Plan | None]:
    """Plans on parts of what is left, and on all of it with uneven shares of the batch."""
    even = [_planned(request, part) for part in _parts(request, plan, left)]
    yield from even
    for pins in dict.fromkeys(_uneven(request, left, [plan, *(each for each in even if each)])):
        yield _planned(replace(request, pins=pins), left)


def _uneven(request: Request, left: Cluster, plans: Sequence[Plan]) -> Iterator[Pins]:
    """The pipelines of some plans on all of what is left, where that many replicas do not divide the batch."""
    batch, given = request.job.global_batch, request.pins.given()
    for plan in plans:
        mesh = plan.configuration.mesh
        dp, rest = divmod(left.num_devices, mesh.pp * mesh.cp * mesh.tp)
        for size in dict.fromkeys((plan.microbatch, 1)):
            if rest or not dp or batch % dp == 0 or batch % size or batch // size < dp:
                continue
            made: dict[str, Any] = {"pp": mesh.pp, "cp": mesh.cp, "tp": mesh.tp, "dp": dp, "microbatch": size}
            if all(given.get(name, value) == value for name, value in made.items()):
                yield replace(request.pins, **made, shares=even_shares(batch // size, dp))


def _parts(request: Request, plan: Plan, left: Cluster) -> Iterator[Cluster]:
    """What is tried of what is left, the largest first."""
    if not request.setting().every_device:  # the search itself looks at all numbers of nodes
        yield left
        return
    mesh, batch = plan.configuration.mesh, request.job.global_batch
    pipeline = mesh.pp * mesh.cp * mesh.tp
    sizes = sorted(node_sizes(left), reverse=True)
    tried = [size for size in sizes if _divides(request, left, size)][:TRIED]
    own = [size for size in sizes if size % pipeline == 0 and batch % (size // pipeline) == 0][:1]
    for size in dict.fromkeys((*tried, *own)):
        yield first_devices(left, size)


def _divides(request: Request, left: Cluster, devices: int) -> bool:
    """Whether some mesh of so many devices divides the batch."""
    setting = replace(request, cluster=first_devices(left, devices)).setting()
    return any(
        mesh.world == devices and request.job.global_batch % mesh.dp == 0
        for mesh in meshes(setting, request.pins, devices)
    )


def _planned(request: Request, cluster: Cluster) -> Plan | None:
    objective = "time" if request.objective == "devices" else request.objective
    try:
        return find_plan(replace(request, cluster=cluster, objective=objective))
    except (InfeasibleError, InputError):
        return None
