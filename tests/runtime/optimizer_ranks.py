"""What ranks do in the tests of optimizers: found by import, run by harness.run_ranks."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from workers import MAX_NORM, batches, own_sequences, whole

from meshwright.kernels.galore import SPACE
from meshwright.kernels.optimizer import MOMENTS
from meshwright.kernels.switch import Choice, use_kernels
from meshwright.planner.plan import Plan
from meshwright.runtime import compat
from meshwright.runtime.build import build_model
from meshwright.runtime.model import ParallelModel
from meshwright.runtime.optimizer import build_optimizer, gradient_norm, step

CPU = torch.device("cpu")
OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1, "eps": 1e-8, "seed": 5}


def stepped(plan: Plan, steps: int, folder: Path) -> None:
    """Save parameters and states of a stage, whole, after steps from gradients that are the same on every mesh."""
    model = build_model(plan, CPU)
    optimizer = build_optimizer(model, **OPTIONS)
    for number in range(steps):
        for name, parameter in model.named_parameters():
            parameter.grad = _gradient(model, name, parameter, number)
        optimizer.step(scale=torch.tensor(0.5))
    found = {}
    for name, parameter in model.named_parameters():
        found[name] = whole(model, name, parameter.detach())
        state = optimizer.state[parameter]
        for key in (each for each in (*MOMENTS, SPACE) if each in state):
            found[f"{name}.{key}"] = whole(model, name, state[key]) if state[key].ndim == parameter.ndim else state[key]
    torch.save(found, folder / f"{dist.get_rank() if dist.is_initialized() else 0}.pt")


def _gradient(model: ParallelModel, name: str, parameter: Tensor, number: int) -> Tensor:
    order = model.orders.get(name)
    size = parameter.shape if order is None else (max(order) + 1, *parameter.shape[1:])
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {number}".encode()))
    made = torch.randn(size, generator=generator)
    made = made if order is None else made[list(order)]
    begin, own = compat.own_box(parameter)
    part = made[tuple(slice(first, first + count) for first, count in zip(begin, own, strict=True))].clone()
    return compat.like_sharded(part, parameter)


def train_both_ways(plan: Plan, steps: int) -> list[list[float]]:
    """Losses and norms of a few steps with kernels auto and with their references."""
    found = []
    choices: tuple[Choice, ...] = ("auto", "reference")
    for choice in choices:
        use_kernels(choice)
        model = build_model(plan, CPU)
        optimizer = build_optimizer(model, **OPTIONS)
        seen: list[float] = []
        for batch in batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, steps):
            seen.append(model.forward_backward(own_sequences(model, batch)).item())
            norm = gradient_norm(model, optimizer, MAX_NORM)
            step(optimizer, norm, MAX_NORM)
            seen.append(norm.item())
        found.append(seen)
    use_kernels("auto")
    return found
