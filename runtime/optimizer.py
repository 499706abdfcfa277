"""The optimizer of a parallel model."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from .model import ParallelModel


def build_optimizer(
    model: ParallelModel, *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float
) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) over all parts; norms and biases, the vectors, do not decay.

    The fused step is one call a group also for sharded parameters; the others dispatch once a parameter.
    One call takes shards of one mesh only: experts, which have a mesh of their own, are groups of their own.
    """
    groups: dict[tuple[bool, DeviceMesh | None], list[torch.nn.Parameter]] = {}
    for _, parameter in model.named_parameters():
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups.setdefault((parameter.ndim > 1, mesh), []).append(parameter)
    made = [{"params": own, "weight_decay": weight_decay * decays} for (decays, _), own in groups.items()]
    return torch.optim.AdamW(made, lr=lr, betas=betas, eps=eps, fused=True)
