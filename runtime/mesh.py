"""Meshes: where this process stands in the plan, and whom it talks to.

The ranks of one pipeline stage are seen in two ways (parallel folding, arXiv:2504.14960): attention has them as
(dp, cp, tp), experts as (edp, ep, etp). The last axis varies fastest in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..planner.configuration import Mesh
from . import compat

DENSE = ("pp", "dp", "cp", "tp")
EXPERT = ("pp", "edp", "ep", "etp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meshes:
    """Degrees, this rank's coordinates, and a DeviceMesh per axis of degree above one (else None).

    `data`, over which dense parameters are sharded and their gradients averaged, is dp x cp in one axis, or with
    hybrid sharding in two: ("replicate", "shard"). `expert_data` is what the shards of experts are replicated over;
    it is None too where experts are not sharded (ep and etp 1): they are then as dense parameters are. `holders` are
    the ranks of edp x ep in one axis, where experts have replicas among them. `cp_ring` x `cp_heads` are the ranks of
    cp as usp has them, `ep_nodes` x `ep_inside` those of ep where tokens are sent to nodes: the ranks of equal place in
    each, and those of one. `vocabulary` is pp x tp in one axis, where embedding and head are spread over it, and
    `passes` the groups of their collectives (`parallel/spread`), by name. `mixed`: this rank's aligned group of each
    degree, where groups are formed anew in every microbatch.
    """

    degrees: Mesh
    rank: int
    pp: DeviceMesh | None = None
    dp: DeviceMesh | None = None
    cp: DeviceMesh | None = None
    tp: DeviceMesh | None = None
    cp_ring: DeviceMesh | None = None
    cp_heads: DeviceMesh | None = None
    ep: DeviceMesh | None = None
    etp: DeviceMesh | None = None
    ep_nodes: DeviceMesh | None = None
    ep_inside: DeviceMesh | None = None
    vocabulary: DeviceMesh | None = None
    data: DeviceMesh | None = None
    expert_data: DeviceMesh | None = None
    holders: DeviceMesh | None = None
    ends: dist.ProcessGroup | None = None  # first and last stage at this coordinate, if embeddings are tied across them
    passes: Mapping[str, dist.ProcessGroup] = field(default_factory=dict)
    mixed: Mapping[int, dist.ProcessGroup] = field(default_factory=dict)  # of each degree, where groups change
    all_groups: tuple[dist.ProcessGroup, ...] = field(default=(), repr=False)

    @property
    def world_size(self) -> int:
        return self.degrees.world

    @property
    def stage_size(self) -> int:
        """Ranks of one pipeline stage."""
        return self.degrees.world // self.degrees.pp

    @property
    def tp_rank(self) -> int:
        return self.rank % self.degrees.tp

    @property
    def cp_rank(self) -> int:
        return self.rank // self.degrees.tp % self.degrees.cp

    @property
    def dp_rank(self) -> int:
        return self.rank // (self.degrees.tp * self.degrees.cp) % self.degrees.dp

    @property
    def pp_rank(self) -> int:
        return self.rank // self.stage_size

    @property
    def etp_rank(self) -> int:
        return self.rank % self.degrees.etp

    @property
    def ep_rank(self) -> int:
        return self.rank // self.degrees.etp % self.degrees.ep

    @property
    def edp_rank(self) -> int:
        return self.rank // (self.degrees.etp * self.degrees.ep) % self.degrees.edp

    @property
    def tp_size(self) -> int:
        return self.degrees.tp

    @property
    def cp_size(self) -> int:
        return self.degrees.cp

    @property
    def dp_size(self) -> int:
        return self.degrees.dp

    @property
    def pp_size(self) -> int:
        return self.degrees.pp

    @property
    def data_size(self) -> int:
        """Ranks whose gradients are averaged."""
        return self.degrees.dp * self.degrees.cp

    def groups(self) -> Iterator[dist.ProcessGroup]:
        """Every process group that the model uses beside the default one."""
        yield from self.all_groups


def build_meshes(
    degrees: Mesh,
    device: torch.device,
    *,
    tied: tuple[int, int] | None = None,
    dp_replicate: int = 1,
    cp_ulysses: int = 1,
    ep_per_node: int = 1,
    spread_vocabulary: bool = False,
    mixed: tuple[int, ...] = (),
    replicas: bool = False,
) -> Meshes:
    """Meshes over all ranks of the default process group, whose timeout every group gets.

    A single process needs no group. `tied` names the pipeline ranks of the first and the last stage, where these tie
    their embeddings, which asks for a group if they are two; `dp_replicate` copies of a group shard in hybrid sharding;
    `cp_ulysses` neighbours of cp share out heads in usp; `ep_per_node` neighbours of ep are in one node, where tokens
    are sent to nodes (1: they are not); `mixed` are the degrees of groups that are formed anew in every microbatch;
    `replicas`: experts lie on several ranks of ep.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    if degrees.world == 1:
        return Meshes(degrees=degrees, rank=rank)
    world = init_device_mesh(device.type, (degrees.world,), mesh_dim_names=("world",))
    found: dict[str, DeviceMesh | None] = _axes(world, {axis: getattr(degrees, axis) for axis in DENSE})
    if cp_ulysses > 1:
        found |= _product(world, degrees, cp_ulysses)
    found["data"] = _data(world, found, degrees, dp_replicate)
    if degrees.ep * degrees.etp > 1:
        found |= _folded(world, degrees, ep_per_node, replicas)
    ends = _ends(degrees, rank, tied) if tied and tied[0] != tied[1] and not spread_vocabulary else None
    if spread_vocabulary:
        found["vocabulary"] = _vocabulary(world, degrees)
    passes, lanes = _passes(degrees, rank) if spread_vocabulary else {}, _mixed(degrees, rank, mixed)
    groups = [group for mesh in found.values() if mesh is not None for group in mesh.get_all_groups()]
    groups += [*passes.values(), *lanes.values(), *([] if ends is None else [ends])]
    all_groups = tuple(dict.fromkeys(groups))
    meshes = Meshes(degrees=degrees, rank=rank, ends=ends, passes=passes, mixed=lanes, all_groups=all_groups, **found)
    set_timeouts(meshes, compat.default_timeout().total_seconds())
    return meshes


def _axes(world: DeviceMesh, sizes: Mapping[str, int]) -> dict[str, DeviceMesh | None]:
    """One way to see the ranks: a mesh for every axis above one, the first axis varying slowest."""
    above_one = {axis: size for axis, size in sizes.items() if size > 1}
    view = compat.unflatten(world, above_one)
    return {axis: view[axis] if axis in above_one else None for axis in sizes}


def _folded(world: DeviceMesh, degrees: Mesh, ep_per_node: int, replicas: bool) -> dict[str, DeviceMesh | None]:
    """The ranks as experts see them; the holders of replicas have the same part of the width of experts."""
    view = _axes(world, {axis: getattr(degrees, axis) for axis in EXPERT})
    found = {"ep": view["ep"], "etp": view["etp"], "expert_data": view["edp"]}
    if ep_per_node > 1:
        found |= _nodes(view["ep"], degrees.ep // ep_per_node, ep_per_node)
    if replicas:
        sizes = {"pp": degrees.pp, "holders": degrees.edp * degrees.ep, "etp": degrees.etp}
        found["holders"] = view["ep"] if degrees.edp == 1 else _axes(world, sizes)["holders"]
    return found


def _product(world: DeviceMesh, degrees: Mesh, cp_ulysses: int) -> dict[str, DeviceMesh | None]:
    """The ranks of cp as rings of groups that share out heads."""
    sizes = {"before": degrees.pp * degrees.dp, "cp_ring": degrees.cp // cp_ulysses, "cp_heads": cp_ulysses}
    view = _axes(world, {**sizes, "tp": degrees.tp})
    return {axis: view[axis] for axis in ("cp_ring", "cp_heads")}


def _nodes(ep: DeviceMesh | None, nodes: int, inside: int) -> dict[str, DeviceMesh | None]:
    """The ranks of ep as nodes: two groups of each rank beside its ep group."""
    assert ep is not None
    view = compat.unflatten(ep, {"ep_nodes": nodes, "ep_inside": inside})
    return {axis: view[axis] for axis in ("ep_nodes", "ep_inside")}


def _data(
    world: DeviceMesh, dense: Mapping[str, DeviceMesh | None], degrees: Mesh, dp_replicate: int
) -> DeviceMesh | None:
    """What dense parameters are sharded over: dp, cp, or both as one axis; two axes where there are replicas."""
    if dp_replicate == 1 and (degrees.cp == 1 or degrees.dp == 1):
        return dense["dp"] or dense["cp"]
    shard = degrees.dp * degrees.cp // dp_replicate
    sizes = {"pp": degrees.pp, "replicate": dp_replicate, "shard": shard, "tp": degrees.tp}
    view = compat.unflatten(world, {axis: size for axis, size in sizes.items() if size > 1})
    return view["replicate", "shard"] if dp_replicate > 1 and shard > 1 else view["shard" if shard > 1 else "replicate"]


def _ends(degrees: Mesh, rank: int, ends: tuple[int, int]) -> dist.ProcessGroup | None:
    """This rank's group of first and last stage; None in the stages between. Every rank of the world calls this."""
    stage = degrees.world // degrees.pp
    mine = None
    for place in range(stage):
        pair = [place + pp_rank * stage for pp_rank in ends]
        group = dist.new_group(pair)
        if rank in pair:
            mine = group
    return mine


def _vocabulary(world: DeviceMesh, degrees: Mesh) -> DeviceMesh:
    """The ranks of pp and tp at one data-parallel coordinate, as one axis."""
    sizes = {"pp": degrees.pp, "data": degrees.dp * degrees.cp, "tp": degrees.tp}
    view = compat.unflatten(world, {axis: size for axis, size in sizes.items() if size > 1})
    return view["pp"] if degrees.tp == 1 else compat.flatten(view["pp", "tp"], "vocabulary")


def _passes(degrees: Mesh, rank: int) -> dict[str, dist.ProcessGroup]:
    """Groups of this rank for the collectives of a spread vocabulary: one over pp for each kind of hidden states and
    gradients, and over pp x tp for numbers of tokens. Every rank of the world calls this."""
    stage, tp = degrees.world // degrees.pp, degrees.tp
    columns = [list(range(place, degrees.world, stage)) for place in range(stage)]
    blocks = [sorted(chain(*columns[place : place + tp])) for place in range(0, stage, tp)]
    mine = {}
    for kind, sets in {**dict.fromkeys("ESGT", columns), "tokens": blocks}.items():
        for ranks in sets:
            group = dist.new_group(ranks)
            if rank in ranks:
                mine[kind] = group
    return mine


def _mixed(degrees: Mesh, rank: int, sizes: tuple[int, ...]) -> dict[int, dist.ProcessGroup]:
    """This rank's aligned group of each size above one, over the ranks of dp and cp with its tp coordinate; without a
    pipeline. Every rank of the world calls this."""
    lanes, tp, mine = degrees.dp * degrees.cp, degrees.tp, {}
    for size in sizes:
        for first in range(0, lanes if size > 1 else 0, size):
            for place in range(tp):
                ranks = [lane * tp + place for lane in range(first, first + size)]
                group = dist.new_group(ranks)
                if rank in ranks:
                    mine[size] = group
    return mine


def set_timeouts(meshes: Meshes, seconds: float) -> None:
    """Longest wait for a peer, of every process group that the model uses."""
    if dist.is_initialized():
        assert dist.group.WORLD is not None
        for group in {dist.group.WORLD, *meshes.groups()}:
            compat.set_timeout(group, seconds)
