"""Replicas: data parallelism of sharded experts, over the ranks that hold the same part of them (edp).

An expert gets tokens of all ranks that hold other ones: its gradient over edp is a sum of what all data-parallel
ranks send, which is to be divided by the number of these ranks and not by that of its replicas.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import Shard

from ... import compat
from ...blocks.experts import Experts
from ...blocks.moe import Moe
from ...compression import Compress
from ...mesh import Meshes
from ..replicas import replicate
from .sharding import HIDDEN


def spread_experts(
    unit: nn.Module, meshes: Meshes, *, zero: int, dtype: torch.dtype, on_host: bool, compress: Compress = "none"
) -> set[nn.Parameter]:
    """ZeRO of the sharded experts of one layer, before that of what surrounds them; `on_host` is where shards stay.

    Returns parameters that the layer's own unit must leave alone: those of experts without replicas.
    """
    if meshes.ep is None and meshes.etp is None:
        return set()
    alone: set[nn.Parameter] = set()
    for moe in [module for module in unit.modules() if isinstance(module, Moe)]:
        if meshes.expert_data is None:
            alone |= _divide_gradients(moe.experts, meshes.data_size)
        else:
            _spread(moe.experts, meshes, zero=zero, dtype=dtype, on_host=on_host, compress=compress)
    return alone


def _divide_gradients(experts: Experts, factor: int) -> set[nn.Parameter]:
    """Of experts without replicas nobody else averages the gradients."""
    for parameter in experts.parameters():
        parameter.register_hook(lambda gradient: gradient / factor)  # type: ignore[no-untyped-call]
    return set(experts.parameters())


def _spread(
    experts: Experts, meshes: Meshes, *, zero: int, dtype: torch.dtype, on_host: bool, compress: Compress
) -> None:
    assert meshes.expert_data is not None
    if zero == 0:
        group = meshes.expert_data.get_group()
        replicate(experts, group, divisor=meshes.data_size, dtype=dtype, compress=compress)
        return
    # Weights of the routing come in float32 and stay so: only `compute` is in `dtype`.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    dims = _dims(experts, meshes)
    fully_shard(
        experts,
        mesh=meshes.expert_data,
        mp_policy=policy,
        reshard_after_forward=zero == 3,
        shard_placement_fn=lambda parameter: Shard(dims[parameter]),
        offload_policy=_host(meshes.expert_data) if on_host else OffloadPolicy(),
    )
    assert isinstance(experts, FSDPModule)
    compat.divide_gradients(experts, meshes.data_size)


def _host(mesh: DeviceMesh) -> OffloadPolicy:
    return CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")


def _dims(experts: Experts, meshes: Meshes) -> dict[nn.Parameter, int]:
    """What ZeRO shards each weight along: the experts, if those of a rank divide, else the hidden size, if it does.

    FSDP2 pads dimension 0 alone.
    """
    assert meshes.expert_data is not None
    replicas = meshes.expert_data.size()
    few = experts.count // meshes.degrees.ep % replicas != 0
    named = {name: getattr(experts, name) for name in HIDDEN}
    return {p: dim if few and p.shape[dim] % replicas == 0 else 0 for p, dim in ((named[n], HIDDEN[n]) for n in named)}
