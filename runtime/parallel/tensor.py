"""Tensor parallelism: attention and feed-forward shared out over a group (Megatron-LM, arXiv:1909.08053).

What is cut, and how, follows from a block's structure by two rules (after Redco, arXiv:2310.16355), not
from a table of names:

    the last linear of a block writes to the residual: it is cut along its inputs, and its outputs are summed
    every other one is cut between the units of its outputs (heads, or single columns of a feed-forward block);
        where these are fewer than ranks, each rank uses one unit of the whole; where the outputs belong together
        (latents), every rank computes them

Norms and vectors without units are held by all ranks. DTensors store the parameters, so that sharding, checkpoints
and optimizers see whole tensors; the computation is local, with collectives only at the boundary of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

from ..blocks.linear import Linear, project
from ..blocks.mlp import Mlp
from ..blocks.norm import Norm, add_normalise, normalise
from ..blocks.order import to_slots
from ..blocks.transformer import Layer
from ..shards import local
from .sequence import Boundary, sum_everywhere


@dataclass(frozen=True, slots=True)
class TensorAxis:
    """One tensor-parallel group and how it is entered."""

    mesh: DeviceMesh
    boundary: Boundary

    @classmethod
    def of(cls, mesh: DeviceMesh, *, sp: bool) -> TensorAxis:
        return cls(mesh, Boundary(mesh.get_group(), sp))

    @property
    def rank(self) -> int:
        return self.mesh.get_local_rank()

    @property
    def size(self) -> int:
        return self.mesh.size()

    def parameter(self, whole: Tensor | None, placement: Placement) -> nn.Parameter | None:
        """`whole` (on the meta device) as a parameter of which this rank holds what `placement` says.

        Equal parts as far as they go; what does not divide leaves the last ranks with less.
        """
        if whole is None:
            return None
        return nn.Parameter(distribute_tensor(whole.detach(), self.mesh, [placement], src_data_rank=None))


class Sharded(nn.Module):
    """A block whose parameters are DTensors; `partial` names those whose gradients must be summed over the group."""

    partial: tuple[str, ...] = ()


class ColumnLinear(Sharded):
    """Each rank computes a share of the outputs."""

    def __init__(self, linear: Linear, axis: TensorAxis):
        super().__init__()
        self.weight = axis.parameter(linear.weight, Shard(0))
        self.bias = axis.parameter(linear.bias, Shard(0))

    def forward(self, x: Tensor) -> Tensor:
        return project(x, local(self.weight), optional(self.bias))


class RowLinear(Sharded):
    """Each rank holds a share of the inputs and adds its part of the outputs; the bias is added once, after the sum.

    With an `order` (blocks/order.py) outputs leave in its slots: put there behind the product, which keeps its input.
    """

    def __init__(self, linear: Linear, axis: TensorAxis):
        super().__init__()
        self.boundary = axis.boundary
        self.weight = axis.parameter(linear.weight, Shard(1))
        self.bias = axis.parameter(linear.bias, Replicate())
        if axis.boundary.sp and self.bias is not None:
            self.partial = ("bias",)

    def forward(self, x: Tensor, order: Tensor | None = None) -> Tensor:
        part = project(x, local(self.weight), None)
        summed = self.boundary.leave(part if order is None else to_slots(part, order))
        return summed if self.bias is None else summed + local(self.bias).to(summed.dtype)


class WholeLinear(Sharded):
    """Every rank holds all of it, and computes the outputs of `rows`: those that it goes on with."""

    partial = ("weight", "bias")

    def __init__(self, linear: Linear, axis: TensorAxis, rows: slice = slice(None)):
        super().__init__()
        self.rows = rows
        self.weight = axis.parameter(linear.weight, Replicate())
        self.bias = axis.parameter(linear.bias, Replicate())

    def forward(self, x: Tensor) -> Tensor:
        bias = optional(self.bias)
        return project(x, local(self.weight)[self.rows], None if bias is None else bias[self.rows])


class WholeNorm(Sharded):
    """A norm that all ranks hold; where each sees other tokens or heads, its gradients are partial."""

    def __init__(self, norm: Norm, axis: TensorAxis, *, partial: bool = True):
        super().__init__()
        self.eps, self.kind = norm.eps, norm.kind
        self.weight = axis.parameter(norm.weight, Replicate())
        self.bias = axis.parameter(norm.bias, Replicate())
        self.partial = ("weight", "bias") if partial else ()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        weight, bias = local(self.weight), optional(self.bias)
        if residual is not None:
            return add_normalise(x, residual, weight, bias, self.eps, self.kind)
        return normalise(x, weight, bias, self.eps, self.kind)


class ColumnNorm(Sharded):
    """A root-mean-square norm over entries that ranks share out: they add up the squares.

    `rows`: of a weight that every rank holds, the entries that it has; then every entry is on equally many ranks,
    and the mean over all they have is the mean over all there are.
    """

    def __init__(self, norm: Norm, axis: TensorAxis, rows: slice | None):
        super().__init__()
        self.eps, self.rows, self.ranks, self.group = norm.eps, rows, axis.size, axis.boundary.group
        self.weight = axis.parameter(norm.weight, Shard(0) if rows is None else Replicate())
        self.partial = () if rows is None else ("weight",)

    def forward(self, x: Tensor) -> Tensor:
        weight = local(self.weight)
        wide = x.float()
        mean = sum_everywhere(wide.pow(2).mean(-1, keepdim=True), self.group) / self.ranks
        normed = (wide * (mean + self.eps).rsqrt()).to(x.dtype)
        return (weight if self.rows is None else weight[self.rows]).to(x.dtype) * normed


def optional(parameter: Tensor | None) -> Tensor | None:
    """As `local`, of a parameter that may not be there."""
    return None if parameter is None else local(parameter)


def replace(owner: nn.Module, name: str, make: Callable[..., Sharded], axis: TensorAxis, **options: Any) -> None:
    """Put the sharded form of a block in its place, if it is there."""
    block = getattr(owner, name)
    if block is not None:
        setattr(owner, name, make(block, axis, **options))


def shard_layer(layer: Layer, axis: TensorAxis) -> None:
    """Share one transformer layer out over the group. Experts share themselves out."""
    for name, block in list(layer.named_children()):
        if isinstance(block, Norm):
            replace(layer, name, WholeNorm, axis, partial=axis.boundary.sp)
    for block in (layer.self_attn, layer.mlp):
        if block is layer.self_attn or isinstance(block, Mlp):
            shard_block(block, axis)


def shard_block(block: nn.Module, axis: TensorAxis) -> None:
    """Cut the linears and norms of a block that reads whole hidden states, by the rules above."""
    block.register_forward_pre_hook(lambda _, inputs: (axis.boundary.enter(inputs[0]), *inputs[1:]))
    linears = [name for name, child in block.named_children() if isinstance(child, Linear)]
    for name, child in list(block.named_children()):
        if isinstance(child, Linear):
            setattr(block, name, RowLinear(child, axis) if name == linears[-1] else _reader(child, axis))
        elif isinstance(child, Norm):
            setattr(block, name, _norm(child, axis))


def _reader(linear: Linear, axis: TensorAxis) -> Sharded:
    if linear.unit is None:
        return WholeLinear(linear, axis)
    rows = _own_unit(linear.out_features, linear.unit, axis)
    return ColumnLinear(linear, axis) if rows is None else WholeLinear(linear, axis, rows)


def _norm(norm: Norm, axis: TensorAxis) -> Sharded:
    if norm.unit is None:
        return WholeNorm(norm, axis)
    return ColumnNorm(norm, axis, _own_unit(len(norm.weight), norm.unit, axis))


def _own_unit(width: int, unit: int, axis: TensorAxis) -> slice | None:
    """Of fewer units than ranks, the one that this rank uses; None where every rank has its own share of units."""
    units = width // unit
    if units >= axis.size:
        return None
    first = axis.rank * units // axis.size * unit
    return slice(first, first + unit)


def partial_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters whose gradients are still to be added up over the group, in the same order on every rank."""
    blocks = [block for block in module.modules() if isinstance(block, Sharded)]
    found = [getattr(block, name) for block in blocks for name in block.partial]
    return [parameter for parameter in found if parameter is not None]
