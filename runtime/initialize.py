"""Initial weights that depend on a parameter's name and the seed alone, never on the plan."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard


def full_tensor(name: str, size: torch.Size, *, seed: int, std: float) -> Tensor:
    """The whole initial value of one parameter, float32 on the CPU: norms one, biases zero, matrices normal."""
    if len(size) == 1:
        return torch.zeros(size) if name.endswith("bias") else torch.ones(size)
    # One checksum of both: torch's CPU generator reads no more than the low 32 bits of a seed.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.randn(size, generator=generator).mul_(std)


def materialise(
    module: nn.Module, names: dict[nn.Parameter, str], device: torch.device, *, seed: int, std: float
) -> None:
    """Give every meta parameter of `module` its initial value on `device`; of a sharded one only this rank's part.

    `names` maps each parameter to its global name. Shared parameters stay shared. Buffers begin at zero.
    """
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for key, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter.is_meta:
                if parameter not in made:
                    full = full_tensor(names[parameter], parameter.shape, seed=seed, std=std)
                    made[parameter] = nn.Parameter(_place(full, parameter, device))
                setattr(owner, key, made[parameter])
        for key, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(owner, key, torch.zeros_like(buffer, device=device))


def _place(full: Tensor, like: nn.Parameter, device: torch.device) -> Tensor:
    """The part that this rank holds of `like`: all of it, or an equal shard over a mesh of one axis."""
    if not isinstance(like, DTensor):
        return full.to(device)
    (placement,) = like.placements
    if isinstance(placement, Shard):
        mesh = like.device_mesh
        full = full.chunk(mesh.size(), placement.dim)[mesh.get_local_rank()].clone()
    return DTensor.from_local(full.to(device), like.device_mesh, like.placements, run_check=False)
