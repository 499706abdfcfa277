"""Initial weights that depend on a parameter's name and the seed alone, never on the plan."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from .shards import local
from .slots import Orders

_IN_ORDER: Orders = {}


def full_tensor(name: str, size: torch.Size, *, seed: int, std: float, norm: float = 1.0) -> Tensor:
    """The whole initial value of one parameter, float32 on the CPU: norms `norm`, biases zero, matrices normal."""
    if len(size) == 1:
        return torch.full(size, 0.0 if name.endswith("bias") else norm)
    if len(size) == 3:
        return _experts(name, size, range(size[0]), seed=seed, std=std)
    return _normal(name, size, seed=seed, std=std)


def _normal(name: str, size: torch.Size, *, seed: int, std: float) -> Tensor:
    # One checksum of both: torch's CPU generator reads no more than the low 32 bits of a seed.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.randn(size, generator=generator).mul_(std)


def _experts(name: str, size: torch.Size, experts: Iterable[int], *, seed: int, std: float) -> Tensor:
    """Some of the stacked matrices [experts, out, in], each drawn on its own: no rank makes those of the others."""
    return torch.stack([_normal(f"{name}.{expert}", size[1:], seed=seed, std=std) for expert in experts])


def materialise(
    module: nn.Module,
    names: dict[nn.Parameter, str],
    device: torch.device,
    *,
    seed: int | None,
    std: float,
    norm: float = 1.0,
    orders: Orders = _IN_ORDER,
) -> None:
    """Give every meta parameter of `module` its initial value on `device`; of a sharded one only this rank's part.

    `names` maps each parameter to its global name. Shared parameters stay shared. Buffers begin at zero. Without a
    `seed` nothing is computed: memory is taken for values that will be loaded. An expert has the same weights in
    whatever slots `orders` puts it.
    """
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for key, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter.is_meta:
                if parameter not in made:
                    if seed is None:
                        value = torch.empty_like(local(parameter), device=device)
                    else:
                        name = names[parameter]
                        order = orders.get(name, range(len(parameter)))
                        value = _part(name, parameter, order, seed=seed, std=std, norm=norm).to(device)
                    made[parameter] = nn.Parameter(_as_shard(value, parameter))
                setattr(owner, key, made[parameter])
        for key, buffer in list(owner.named_buffers(recurse=False)):
            if buffer.is_meta:
                setattr(owner, key, torch.zeros_like(buffer, device=device))


def _part(name: str, like: nn.Parameter, order: Sequence[int], *, seed: int, std: float, norm: float) -> Tensor:
    """What this rank holds of the initial value of `like`: all of it, or a part along every axis of its mesh.

    Of stacked matrices, `order` are the experts that they belong to.
    """
    shards = _shards(like)
    if like.ndim == 3:
        first, length = shards.pop(0, (0, len(like)))
        part = _experts(name, like.shape, order[first : first + length], seed=seed, std=std)
    else:
        part = full_tensor(name, like.shape, seed=seed, std=std, norm=norm)
    for dim, (first, length) in shards.items():
        part = part.narrow(dim, first, length)
    return part.clone() if shards else part


def _shards(like: nn.Parameter) -> dict[int, tuple[int, int]]:
    """Where the part that is here begins, and how long it is (the last may be less), by dimension."""
    if not isinstance(like, DTensor):
        return {}
    mesh, own, found = like.device_mesh, like.to_local(), {}
    for axis, placement in enumerate(like.placements):
        if isinstance(placement, Shard):
            dim = placement.dim
            first = math.ceil(like.shape[dim] / mesh.size(axis)) * mesh.get_local_rank(axis)
            found[dim] = min(first, like.shape[dim]), own.shape[dim]
    return found


def _as_shard(value: Tensor, like: nn.Parameter) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(value, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())
