"""Initial weights that depend on a parameter's name and the seed alone, never on the plan."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard


def full_tensor(name: str, size: torch.Size, *, seed: int, std: float) -> Tensor:
    """The whole initial value of one parameter, float32 on the CPU: norms one, biases zero, matrices normal."""
    if len(size) == 1:
        return torch.zeros(size) if name.endswith("bias") else torch.ones(size)
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
                    value = _part(names[parameter], parameter, seed=seed, std=std).to(device)
                    made[parameter] = nn.Parameter(_as_shard(value, parameter))
                setattr(owner, key, made[parameter])
        for key, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(owner, key, torch.zeros_like(buffer, device=device))


def _part(name: str, like: nn.Parameter, *, seed: int, std: float) -> Tensor:
    """What this rank holds of the initial value of `like`: all of it, or an equal part along every axis of its mesh."""
    shards = _shards(like)
    if like.ndim == 3 and 0 in shards:
        parts, mine = shards.pop(0)
        each = like.shape[0] // parts
        part = _experts(name, like.shape, range(mine * each, (mine + 1) * each), seed=seed, std=std)
    else:
        part = full_tensor(name, like.shape, seed=seed, std=std)
    for dim, (parts, mine) in shards.items():
        part = part.chunk(parts, dim)[mine]
    return part.clone() if shards else part


def _shards(like: nn.Parameter) -> dict[int, tuple[int, int]]:
    """Into how many parts a parameter is cut, and which of them is here, by dimension."""
    if not isinstance(like, DTensor):
        return {}
    mesh = like.device_mesh
    axes = [(axis, placement) for axis, placement in enumerate(like.placements) if isinstance(placement, Shard)]
    return {placement.dim: (mesh.size(axis), mesh.get_local_rank(axis)) for axis, placement in axes}


def _as_shard(value: Tensor, like: nn.Parameter) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    return DTensor.from_local(value, like.device_mesh, like.placements, run_check=False)
