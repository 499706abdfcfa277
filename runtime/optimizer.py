"""The optimizer of a parallel model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from ..errors import RunError
from ..kernels.adamw import clip_scale
from ..kernels.galore import GaLore
from ..kernels.optimizer import FusedAdamW
from ..kernels.switch import runs_fast
from .model import ParallelModel
from .parallel.offload.optimizer import IN_FLIGHT, OffloadedAdamW
from .parallel.offload.states import FileStates, HostStates, States
from .places import Places
from .shards import held

_STATES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PROJECTED = (".self_attn.", ".mlp.")
_ROUTER = ".mlp.gate.weight"


def build_optimizer(
    model: ParallelModel,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    eps: float,
    scratch: Path | None = None,
    seed: int = 0,
) -> torch.optim.Optimizer:
    """What the plan's job names, over all parts; norms and biases, the vectors, do not decay. The plan says how much of
    its states lives on the host; those on a drive lie in `scratch`, which every rank may share. `seed`: of the random
    bits that states in bfloat16 are rounded with.

    AdamW (arXiv:1711.05101) is the fused kernel where that runs, and where its states are in bfloat16; else torch's,
    whose fused step is one call a group also for sharded parameters (the others dispatch once a parameter).
    One call takes shards of one mesh only: experts, which have a mesh of their own, are groups of their own.
    """
    options: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps}
    fused = steps_fused(model)
    groups = _groups(model, weight_decay, named=fused)
    if fused:
        job = model.plan.job
        options |= {
            "states": _STATES[job.optimizer_states],
            "seed": seed,
            "layout": Places(model.orders, model.meshes.data),
        }
        return FusedAdamW(groups, **options) if job.galore is None else GaLore(groups, **dict(job.galore), **options)
    if model.plan.offload == 0:
        return torch.optim.AdamW(groups, **options, fused=True)
    states, device = partial(_states, model, scratch), groups[0]["params"][0].device
    return OffloadedAdamW(groups, states, fraction=model.plan.offload, device=device, **options)


def steps_fused(model: ParallelModel) -> bool:
    """Whether this rank steps with `kernels/optimizer.py`: on a CUDA device with kernels auto; and anywhere, as plain
    PyTorch, what torch's AdamW cannot: states in bfloat16, and GaLore. What lives on the host has its own way."""
    job, plan = model.plan.job, model.plan
    if plan.offload or plan.swap_layers:
        return False
    first = held(next(parameter for _, parameter in model.named_parameters()))
    asked = job.optimizer_states != "fp32" or job.galore is not None
    return asked or runs_fast("adamw", first, elements=first.numel())


def gradient_norm(model: ParallelModel, optimizer: torch.optim.Optimizer, most: float) -> Tensor:
    """The norm of the gradient of the whole model, equal on all ranks. Clips to `most` where the step does not."""
    return model.grad_norm() if isinstance(optimizer, FusedAdamW) else model.clip_grad_norm(most)


def step(optimizer: torch.optim.Optimizer, norm: Tensor, most: float) -> None:
    """Step from gradients of this norm, clipped to `most`: the fused step clips as it reads them."""
    if isinstance(optimizer, FusedAdamW):
        optimizer.step(scale=clip_scale(norm, most))
    else:
        optimizer.step()


def _groups(model: ParallelModel, weight_decay: float, *, named: bool) -> list[dict[str, Any]]:
    """By decay and mesh, and by whether GaLore projects them, as the paper has it: matrices inside of layers."""
    groups: dict[tuple[bool, DeviceMesh | None, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        inside = named and any(part in name for part in _PROJECTED) and not name.endswith(_ROUTER)
        groups.setdefault((parameter.ndim > 1, mesh, inside), []).append((name, parameter))
    return [
        {
            "params": own if named else [parameter for _, parameter in own],
            "weight_decay": weight_decay * decays,
            **({"projected": inside} if named else {}),
        }
        for (decays, _, inside), own in groups.items()
    ]


def _states(model: ParallelModel, scratch: Path | None, subgroups: list[range]) -> States:
    """Room for the states of subgroups of elements, where the plan wants them."""
    if model.plan.offload_to == "cpu":
        return HostStates(subgroups)
    if scratch is None:
        raise RunError("optimizer states on a drive need a folder")
    return FileStates(subgroups, scratch / f"rank-{model.meshes.rank:05}", buffers=IN_FLIGHT + 1)
