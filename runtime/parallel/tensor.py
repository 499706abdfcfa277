"""Tensor parallelism: heads and feed-forward shared out over a group (Megatron-LM, arXiv:1909.08053).

DTensors store the parameters, so that sharding, checkpoints and optimizers see whole tensors; the
computation is local, with collectives only at the boundary of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from ...kernels.norm import rms_norm
from ..blocks.attention import Attention
from ..blocks.linear import project
from ..blocks.mlp import Mlp
from ..blocks.norm import RmsNorm
from ..blocks.transformer import Layer
from .sequence import Boundary


@dataclass(frozen=True, slots=True)
class TensorAxis:
    """One tensor-parallel group and how it is entered."""

    mesh: DeviceMesh
    boundary: Boundary

    @classmethod
    def of(cls, mesh: DeviceMesh, *, sp: bool) -> TensorAxis:
        return cls(mesh, Boundary(mesh.get_group(), sp))

    def parameter(self, whole: Tensor, placement: Placement) -> nn.Parameter:
        """`whole` (on the meta device) as a parameter of which this rank holds what `placement` says."""
        return nn.Parameter(distribute_tensor(whole.detach(), self.mesh, [placement], src_data_rank=None))


class Sharded(nn.Module):
    """A block whose parameters are DTensors; `partial` names those whose gradients must be summed over the group."""

    partial: tuple[str, ...] = ()


class ColumnLinear(Sharded):
    """Each rank computes a share of the outputs."""

    def __init__(self, linear: nn.Linear, axis: TensorAxis):
        super().__init__()
        self.weight = axis.parameter(linear.weight, Shard(0))
        self.bias = None if linear.bias is None else axis.parameter(linear.bias, Shard(0))

    def forward(self, x: Tensor) -> Tensor:
        return project(x, local(self.weight), None if self.bias is None else local(self.bias))


class RowLinear(Sharded):
    """Each rank holds a share of the inputs and adds its part of the outputs; the bias is added once, after the sum."""

    def __init__(self, linear: nn.Linear, axis: TensorAxis):
        super().__init__()
        self.boundary = axis.boundary
        self.weight = axis.parameter(linear.weight, Shard(1))
        self.bias = None if linear.bias is None else axis.parameter(linear.bias, Replicate())
        if axis.boundary.sp and self.bias is not None:
            self.partial = ("bias",)

    def forward(self, x: Tensor) -> Tensor:
        summed = self.boundary.leave(project(x, local(self.weight), None))
        return summed if self.bias is None else summed + local(self.bias).to(summed.dtype)


class KeyLinear(Sharded):
    """A key or value projection with fewer heads than ranks: all ranks hold it, each uses one head of it."""

    partial = ("weight", "bias")

    def __init__(self, linear: nn.Linear, axis: TensorAxis, head_dim: int):
        super().__init__()
        heads = linear.out_features // head_dim
        first = axis.mesh.get_local_rank() * heads // axis.mesh.size() * head_dim
        self.rows = slice(first, first + head_dim)
        self.weight = axis.parameter(linear.weight, Replicate())
        self.bias = None if linear.bias is None else axis.parameter(linear.bias, Replicate())

    def forward(self, x: Tensor) -> Tensor:
        return project(x, local(self.weight)[self.rows], None if self.bias is None else local(self.bias)[self.rows])


class ReplicatedNorm(Sharded):
    """A norm that all ranks hold; where each sees other tokens or heads, its gradients are partial."""

    def __init__(self, norm: RmsNorm, axis: TensorAxis, *, partial: bool):
        super().__init__()
        self.eps = norm.eps
        self.weight = axis.parameter(norm.weight, Replicate())
        self.partial = ("weight",) if partial else ()

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, local(self.weight), self.eps)


def local(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def replace(owner: nn.Module, name: str, make: Callable[..., Sharded], axis: TensorAxis, **options: Any) -> None:
    """Put the sharded form of a block in its place, if it is there."""
    block = getattr(owner, name)
    if block is not None:
        setattr(owner, name, make(block, axis, **options))


def shard_layer(layer: Layer, axis: TensorAxis) -> None:
    """Share one transformer layer out over the group."""
    for norm in ("input_layernorm", "post_attention_layernorm"):
        replace(layer, norm, ReplicatedNorm, axis, partial=axis.boundary.sp)
    _shard_attention(layer.self_attn, axis)
    if isinstance(layer.mlp, Mlp):  # experts share themselves out
        shard_mlp(layer.mlp, axis)


def _shard_attention(attention: Attention, axis: TensorAxis) -> None:
    few = attention.k_proj.out_features // attention.head_dim < axis.mesh.size()
    key: Callable[..., Sharded] = partial(KeyLinear, head_dim=attention.head_dim) if few else ColumnLinear
    replace(attention, "q_proj", ColumnLinear, axis)
    replace(attention, "k_proj", key, axis)
    replace(attention, "v_proj", key, axis)
    replace(attention, "o_proj", RowLinear, axis)
    for norm in ("q_norm", "k_norm"):
        replace(attention, norm, ReplicatedNorm, axis, partial=True)
    _enter_first(attention, axis)


def shard_mlp(mlp: Mlp, axis: TensorAxis) -> None:
    """Share one dense feed-forward block out over the group."""
    replace(mlp, "gate_proj", ColumnLinear, axis)
    replace(mlp, "up_proj", ColumnLinear, axis)
    replace(mlp, "down_proj", RowLinear, axis)
    _enter_first(mlp, axis)


def _enter_first(block: nn.Module, axis: TensorAxis) -> None:
    block.register_forward_pre_hook(lambda _, inputs: (axis.boundary.enter(inputs[0]), *inputs[1:]))


def partial_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters whose gradients are still to be added up over the group, in the same order on every rank."""
    blocks = [block for block in module.modules() if isinstance(block, Sharded)]
    found = [getattr(block, name) for block in blocks for name in block.partial]
    return [parameter for parameter in found if parameter is not None]
