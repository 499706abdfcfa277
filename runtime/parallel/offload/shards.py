"""Swapped layers whose shards data-parallel ranks hold on their hosts (ZeRO-Infinity, arXiv:2104.07857).

FSDP2 does it: before a layer computes, each rank's shard is copied in and gathered, and it goes as soon as the layer is
done; gradients are scattered and copied out. Without other ranks it copies in the stream that computes: `window.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard


def swap_shards(layer: torch.nn.Module, mesh: DeviceMesh, *, dtype: torch.dtype) -> None:
    """Keep this rank's shard of `layer` on the host."""
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    host = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True, offload_policy=host)


def set_window(layers: Sequence[torch.nn.Module], size: int) -> None:
    """Let at most `size` layers (two or more) be whole at once: one computes, the next ones are on their way."""
    units: list[FSDPModule] = [layer for layer in layers if isinstance(layer, FSDPModule)]
    for index, unit in enumerate(units):
        unit.set_modules_to_forward_prefetch(units[index + 1 : index + size])
        unit.set_modules_to_backward_prefetch(units[max(0, index - size + 1) : index][::-1])
