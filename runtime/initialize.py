"""Initial weights that depend on a parameter's name and the seed alone, never on the plan."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard


def full_tensor(name: str, size: torch.Size, *, seed: int, std: float, norm: float = 1.0) -> Tensor:
    """The whole initial value of one parameter, float32 on the CPU: norms `norm`, biases zero, matrices normal."""
    if len(size) == 1:
        return torch.full(size, 0.0 if name.endswith("bias") else norm)
    # One checksum of both: torch's CPU generator reads no more than the low 32 bits of a seed.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.randn(size, generator=generator).mul_(std)


def materialise(
    module: nn.Module,
    names: dict[nn.Parameter, str],
    device: torch.device,
    *,
    seed: int | None,
    std: float,
    norm: float = 1.0,
) -> None:
    """Give every meta parameter of `module` its initial value on `device`; of a sharded one only this rank's part.

    `names` maps each parameter to its global name. Shared parameters stay shared. Buffers begin at zero. Without a
    `seed` nothing is computed: memory is taken for values that will be loaded.
    """
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for key, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter.is_meta:
                if parameter not in made:
                    if seed is None:
                        value = _empty(parameter, device)
                    else:
                        full = full_tensor(names[parameter], parameter.shape, seed=seed, std=std, norm=norm)
                        value = _place(full, parameter, device)
                    made[parameter] = nn.Parameter(value)
                setattr(owner, key, made[parameter])
        for key, buffer in list(owner.named_buffers(recurse=False)):
            if buffer.is_meta:
                setattr(owner, key, torch.zeros_like(buffer, device=device))


def _place(full: Tensor, like: nn.Parameter, device: torch.device) -> Tensor:
    """The part that this rank holds of `like`: all of it, or a shard over a mesh of one axis (the last may be less)."""
    if not isinstance(like, DTensor):
        return full.to(device)
    (placement,), part = like.placements, full
    if isinstance(placement, Shard):
        first = math.ceil(full.shape[placement.dim] / like.device_mesh.size()) * like.device_mesh.get_local_rank()
        length = like.to_local().shape[placement.dim]
        part = full.narrow(placement.dim, min(first, full.shape[placement.dim] - length), length).clone()
    return _sharded(part.to(device), like)


def _empty(like: nn.Parameter, device: torch.device) -> Tensor:
    if not isinstance(like, DTensor):
        return torch.empty_like(like, device=device)
    return _sharded(torch.empty_like(like.to_local(), device=device), like)


def _sharded(part: Tensor, like: DTensor) -> Tensor:
    """`part` as this rank's part of a tensor that is laid out as `like`."""
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())
