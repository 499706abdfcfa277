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
    module: nn.Module, names: dict[nn.Parameter, str], device: torch.device, *, seed: int, std: float, norm: float = 1.0
) -> None:
    """Give every meta parameter of `module` its initial value on `device`; of a sharded one only this rank's part.

    `names` maps each parameter to its global name. Shared parameters stay shared.
    """
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for key, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter.is_meta:
                if parameter not in made:
                    full = full_tensor(names[parameter], parameter.shape, seed=seed, std=std, norm=norm)
                    made[parameter] = nn.Parameter(_place(full, parameter, device))
                setattr(owner, key, made[parameter])


def _place(full: Tensor, like: nn.Parameter, device: torch.device) -> Tensor:
    """The part that this rank holds of `like`: all of it, or a shard over a mesh of one axis (the last may be less)."""
    if not isinstance(like, DTensor):
        return full.to(device)
    (placement,), part = like.placements, full
    if isinstance(placement, Shard):
        first = math.ceil(full.shape[placement.dim] / like.device_mesh.size()) * like.device_mesh.get_local_rank()
        part = full.narrow(placement.dim, first, like.to_local().shape[placement.dim]).clone()
    return DTensor.from_local(
        part.to(device), like.device_mesh, like.placements, run_check=False, shape=full.shape, stride=full.stride()
    )
