"""What ranks do in the tests of optimizers: found by import, run by harness.run_ranks."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
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
from meshwright.runtime.places import Places

CPU = torch.device("cpu")
OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1, "eps": 1e-8, "seed": 5}


def stepped(plan: Plan, steps: int, folder: Path, after: Callable[[], object] = lambda: None) -> None:
    """Save parameters and states of a stage, whole, after steps from gradients that are the same on every mesh."""
    model = build_model(plan, CPU)
    optimizer = build_optimizer(model, **OPTIONS)
    for number in range(steps):
        for name, parameter in model.named_parameters():
            parameter.grad = _gradient(model, name, parameter, number)
        optimizer.step(scale=torch.tensor(0.5))
        after()
    found = {}
    for name, parameter in model.named_parameters():
        found[name] = whole(model, name, parameter.detach())
        state = optimizer.state[parameter]
        for key in (each for each in (*MOMENTS, SPACE) if each in state):
            found[f"{name}.{key}"] = whole(model, name, state[key]) if state[key].ndim == parameter.ndim else state[key]
    torch.save(found, folder / f"{dist.get_rank() if dist.is_initialized() else 0}.pt")


def searched_apart(plan: Plan, steps: int, folder: Path) -> None:
    """As `stepped`, where each rank's decompositions differ from the others', by signs and beyond rounding; with the
    number of spaces that were sent in each step."""
    rank, sent, exact = dist.get_rank(), [0], torch.linalg.svd

    def drifting(matrix: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        left, values, right = exact(matrix, full_matrices=full_matrices)
        return (-1.0) ** rank * (left + 1e-4 * rank), values, right

    def counted(self: Places, tensor: Tensor, replica: int) -> None:
        sent[-1] += 1
        share(self, tensor, replica)

    share = Places.share
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.linalg, "svd", drifting)
        patched.setattr(Places, "share", counted)
        stepped(plan, steps, folder, after=lambda: sent.append(0))
    torch.save(sent[:-1], folder / f"sent-{rank}.pt")


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
