"""The optimizer of a parallel model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from ..errors import RunError
from .model import ParallelModel
from .parallel.offload.optimizer import IN_FLIGHT, OffloadedAdamW
from .parallel.offload.states import FileStates, HostStates, States


def build_optimizer(
    model: ParallelModel,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    eps: float,
    scratch: Path | None = None,
) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101) over all parts; norms and biases, the vectors, do not decay. The plan says how much of
    its states lives on the host; those on a drive lie in `scratch`, which every rank may share.

    The fused step is one call a group also for sharded parameters; the others dispatch once a parameter.
    One call takes shards of one mesh only: experts, which have a mesh of their own, are groups of their own.
    """
    groups: dict[tuple[bool, DeviceMesh | None], list[torch.nn.Parameter]] = {}
    for _, parameter in model.named_parameters():
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups.setdefault((parameter.ndim > 1, mesh), []).append(parameter)
    made: list[dict[str, Any]] = [
        {"params": own, "weight_decay": weight_decay * decays} for (decays, _), own in groups.items()
    ]
    options: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps}
    if model.plan.offload == 0:
        return torch.optim.AdamW(made, **options, fused=True)
    states, device = partial(_states, model, scratch), made[0]["params"][0].device
    return OffloadedAdamW(made, states, fraction=model.plan.offload, device=device, **options)


def _states(model: ParallelModel, scratch: Path | None, subgroups: list[range]) -> States:
    """Room for the states of subgroups of elements, where the plan wants them."""
    if model.plan.offload_to == "cpu":
        return HostStates(subgroups)
    if scratch is None:
        raise RunError("optimizer states on a drive need a folder")
    return FileStates(subgroups, scratch / f"rank-{model.meshes.rank:05}", buffers=IN_FLIGHT + 1)
