"""Sharding: which part of the expert blocks a rank holds.

Of the routed experts each rank of ep holds some, and each rank of etp a part of the width of these; DTensors
store them. Router and the gate of a shared expert are held by all ranks of tp, which route other tokens each
(sequence parallelism): their gradients are partial sums. The shared expert is cut as any feed-forward block is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

from ....planner.configuration import Dispatch as Sent
from ... import compat
from ...blocks.experts import Dispatch, Experts
from ...blocks.linear import Linear
from ...blocks.moe import Moe
from ...blocks.router import Router, Routing, route, router_logits
from ...mesh import Meshes
from ...shards import local
from ...slots import Order
from ..tensor import Sharded, TensorAxis, WholeLinear, shard_block
from .dispatch import Dropless
from .exchange import Groups

WEIGHTS = ("gate_proj", "up_proj", "down_proj")
WIDTH = {"gate_proj": 1, "up_proj": 1, "down_proj": 2}  # the dimension that etp shards
HIDDEN = {"gate_proj": 2, "up_proj": 2, "down_proj": 1}  # that of the hidden size

MakeParameter = Callable[[str, Tensor], nn.Parameter | None]


class ShardedExperts(Sharded, Experts):
    """Experts of which this rank holds a part of each weight."""

    def __init__(
        self, experts: Experts, parameter: MakeParameter, dispatch: Dispatch | None, partial: tuple[str, ...],
        count: int | None = None,
    ):  # fmt: skip
        nn.Module.__init__(self)
        self.count, self.activate, self.partial = count or experts.count, experts.activate, partial
        self.dispatch, self.to_slots = dispatch or self.dispatch_here, experts.to_slots
        for name in WEIGHTS:
            self.register_parameter(name, parameter(name, getattr(experts, name)))

    def matrix(self, weight: Tensor) -> Tensor:
        return local(weight)


class ReplicatedRouter(Sharded):
    """A router that all ranks of tp hold, each for its own tokens."""

    partial = ("weight",)
    e_score_correction_bias: Tensor | None

    def __init__(self, router: nn.Module, axis: TensorAxis):
        super().__init__()
        assert isinstance(router, Router)
        self.shape = router.shape
        self.weight = axis.parameter(router.weight, Replicate())
        self.register_buffer("e_score_correction_bias", router.e_score_correction_bias)

    def forward(self, tokens: Tensor) -> Routing:
        return route(router_logits(tokens, local(self.weight), self.shape), self.shape, self.e_score_correction_bias)


def shard_moe(
    moe: Moe,
    meshes: Meshes,
    axis: TensorAxis | None,
    order: Order | None = None,
    *,
    sent: Sent = "copies",
    chunks: int = 1,
) -> None:
    """Share one block of experts out over the ranks of a stage; `axis` is that of tp, where there is one; `order` the
    expert in each slot, where ep ranks do not hold experts in their order. `sent` and `chunks` are those of the
    dispatch."""
    if axis is not None:
        _shard_dense(moe, axis)
    if meshes.ep is not None or meshes.etp is not None:
        count = moe.experts.count if order is None else len(order)
        moe.experts = _folded(moe.experts, meshes, order, Dropless(count, groups_of(meshes), sent, chunks))
    elif axis is not None:
        moe.experts = _replicated(moe.experts, axis)


def _shard_dense(moe: Moe, axis: TensorAxis) -> None:
    moe.gate = ReplicatedRouter(moe.gate, axis)
    if moe.shared_expert_gate is not None:
        assert isinstance(moe.shared_expert_gate, Linear)
        moe.shared_expert_gate = WholeLinear(moe.shared_expert_gate, axis)
    if moe.shared is not None:
        shard_block(moe.shared, axis)


def _folded(experts: Experts, meshes: Meshes, order: Order | None, dispatch: Dropless) -> ShardedExperts:
    """Experts over ep, their width over etp."""
    axes = [mesh for mesh in (meshes.ep, meshes.etp) if mesh is not None]
    mesh = compat.concatenate(axes)

    def parameter(name: str, whole: Tensor) -> nn.Parameter:
        placements: list[Placement] = [] if meshes.ep is None else [Shard(0)]
        placements += [] if meshes.etp is None else [Shard(WIDTH[name])]
        stacked = whole.detach()
        if order is not None:
            stacked = stacked.index_select(0, torch.tensor(order, device=whole.device))
        return nn.Parameter(distribute_tensor(stacked, mesh, placements, src_data_rank=None))

    return ShardedExperts(experts, parameter, dispatch, (), dispatch.slots)


def _replicated(experts: Experts, axis: TensorAxis) -> ShardedExperts:
    """All experts on every rank of tp, for other tokens each."""

    def parameter(name: str, whole: Tensor) -> nn.Parameter | None:
        return axis.parameter(whole, Replicate())

    return ShardedExperts(experts, parameter, None, WEIGHTS)


def groups_of(meshes: Meshes) -> Groups:
    """The process groups that rows are exchanged in."""
    axes = (meshes.ep, meshes.etp, meshes.ep_nodes, meshes.ep_inside)
    return Groups(*(None if mesh is None else mesh.get_group() for mesh in axes))
