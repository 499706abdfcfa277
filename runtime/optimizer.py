"""The optimizer of a parallel model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

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
    """
    parameters = [parameter for _, parameter in model.named_parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps}
    if model.plan.offload == 0:
        return torch.optim.AdamW(groups, **options, fused=True)
    device = parameters[0].device
    states = partial(_states, model, scratch)
    return OffloadedAdamW(groups, states, fraction=model.plan.offload, device=device, **options)


def _states(model: ParallelModel, scratch: Path | None, sizes: list[int]) -> States:
    """Room for the states of subgroups of so many elements, where the plan wants them."""
    if model.plan.offload_to == "cpu":
        return HostStates(sizes)
    if scratch is None:
        raise RunError("optimizer states on a drive need a folder")
    return FileStates(sizes, scratch / f"rank-{model.meshes.rank:05}", buffers=IN_FLIGHT + 1)
