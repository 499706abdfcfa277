"""Gradients of a model that is spread over several meshes: adding up and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from . import compat
from .components import span
from .shards import local

_WHOLE: Mapping[nn.Parameter, Tensor] = {}


@torch.no_grad()
def local_gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """What this rank holds of each gradient; writing to them changes the gradients."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return [local(gradient) for gradient in gradients]


@torch.no_grad()
def add_up(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup, kind: str) -> None:
    """Sum the gradients of `parameters` over `group`, in one message; `kind` is the parallel dimension it is of."""
    gradients = local_gradients(parameters)
    if not gradients:
        return
    device = compat.device_of(group)  # gradients of swapped layers are on the host
    message = torch.cat([gradient.flatten().to(device) for gradient in gradients])
    with span(kind):
        dist.all_reduce(message, group=group)
    for gradient, summed in zip(gradients, torch.split(message, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


@torch.no_grad()
def clip(
    shares: Mapping[nn.Parameter, float], max_norm: float, counted: Mapping[nn.Parameter, Tensor] = _WHOLE
) -> Tensor:
    """Scale all gradients so that their norm over the whole model is at most `max_norm`; return the norm before."""
    norm = gradient_norm(shares, counted)
    gradients = local_gradients(shares)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for place in {gradient.device for gradient in gradients}:
        torch._foreach_mul_([gradient for gradient in gradients if gradient.device == place], factor.to(place))
    return norm


@torch.no_grad()
def gradient_norm(shares: Mapping[nn.Parameter, float], counted: Mapping[nn.Parameter, Tensor] = _WHOLE) -> Tensor:
    """Norm of the gradients over the whole model.

    `shares` says for each parameter what fraction of this rank's square counts: replicas of one value
    on k ranks count 1/k each (see `share`). Of stacked weights in `counted` only the matrices with a 1 there count.
    One scalar is exchanged, unless every rank has the whole model.
    """
    parameters = [parameter for parameter in shares if parameter.grad is not None]
    gradients = local_gradients(parameters)
    device = max(gradients, key=lambda gradient: gradient.is_cuda).device  # those of swapped layers are on the host
    norms = torch.stack([norm.to(device) for norm in _norms(parameters, gradients, counted)])
    return _square(norms, [shares[parameter] for parameter in parameters]).sqrt()


def _norms(
    parameters: list[nn.Parameter], gradients: list[Tensor], counted: Mapping[nn.Parameter, Tensor]
) -> list[Tensor]:
    norms = list(torch._foreach_norm(gradients, 2.0, dtype=torch.float32))
    for index, parameter in enumerate(parameters):
        if parameter in counted:
            each = torch.linalg.vector_norm(gradients[index].flatten(1), dim=1, dtype=torch.float32)
            norms[index] = torch.linalg.vector_norm(each * counted[parameter])
    return norms


def _square(norms: Tensor, shares: list[float]) -> Tensor:
    """Of the norm of the whole model. What every rank has is added up in the same order everywhere."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    if all(share == 1.0 / world for share in shares):
        return norms.square().sum()
    square = (norms.square() * torch.tensor(shares, device=norms.device)).sum()
    with span("wait"):
        dist.all_reduce(square)
    return square


def share(parameter: nn.Parameter, ranks: int) -> float:
    """One over the number of equal copies of each element among the `ranks` ranks of one pipeline stage."""
    if not isinstance(parameter, DTensor):
        return 1.0 / ranks
    sizes = zip(parameter.placements, parameter.device_mesh.shape, strict=True)
    return math.prod(1 if placement.is_replicate() else size for placement, size in sizes) / ranks
