"""What the ranks of a row do: train beside a reference, and train a wider model for its memory."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY, batches, own_sequences, whole

from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model
from meshwright.runtime.compat import own_box
from meshwright.runtime.model import ParallelModel
from meshwright.runtime.optimizer import build_optimizer
from meshwright.runtime.pretrained import load_pretrained
from meshwright.runtime.shards import local
from parity_table.heads import watched
from parity_table.memory import PeakMemory

CPU = torch.device("cpu")
ROUNDING = 1e-6
"""A tensor that is so much smaller than the largest one is zero but for rounding, and is compared as zero."""

Fault = Literal["weight", "gradient", "parameter"]
Curves = tuple[list[float], list[float], list[dict[str, float]], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Task:
    """One row for the ranks; `reference` holds gradients and parameters of a Curve."""

    plan: Plan
    wide_plan: Plan | None
    reference: Path
    steps: int
    fault: Fault | None = None
    compiler: str | None = None
    files: Path | None = None  # of transformers, where the weights come from these


@dataclass(frozen=True, slots=True)
class Found:
    """What one rank has seen: losses and norms by step, errors by parameter, its peak."""

    losses: list[float]
    norms: list[float]
    gradients: list[dict[str, float]]  # by step
    parameters: dict[str, float]
    peak_bytes: int
    logits: tuple[float, int]  # their error, of how many; none where weights come from no files


def run_tasks(tasks: list[Task], answers: Path) -> None:
    """One row after another in one world of processes; what this rank finds stands in files by row and rank, so that
    those before a failure count. Groups of earlier rows stay, on one device (harness.py)."""
    for number, task in enumerate(tasks):
        found = _run(task)
        with answer(answers, number, dist.get_rank()).open("wb") as file:
            pickle.dump(found, file)


def answer(folder: Path, number: int, rank: int) -> Path:
    return folder / f"{number}-{rank}.pickle"


def _run(task: Task) -> Found:
    curves, logits = _train(task)
    gc.collect()
    peak = 0 if task.wide_plan is None else peak_bytes(task.wide_plan)
    dist.barrier()
    return Found(*curves, peak, logits)


def _train(task: Task) -> tuple[Curves, tuple[float, int]]:
    """From initial weights; or from files, of which each rank reads what it holds, and with logits then."""
    model = build_model(task.plan, CPU, compiler=task.compiler, seed=0 if task.files is None else None)
    if task.files is None:
        return train_beside(task, model), (0.0, 0)
    read, held = load_pretrained(model, task.files), _held_bytes(model)
    assert read == held, f"{read} bytes read, {held} held"
    _spoil({name: parameter.detach() for name, parameter in model.named_parameters()}, task.fault == "weight")
    with watched(model) as heads:
        curves = train_beside(task, model)
    job, expected = task.plan.job, torch.load(task.reference, mmap=True)["logits"]
    (batch,) = batches(model.shape.vocab, job.seq_len, job.global_batch, 1)
    return curves, heads.compare(own_sequences(model, batch), own_sequences(model, expected))


def _held_bytes(model: ParallelModel) -> int:
    states = [tensor for _, tensor in (*model.named_parameters(), *model.named_buffers())]
    return sum(local(tensor).nbytes for tensor in states)


def train_beside(task: Task, model: ParallelModel) -> Curves:
    """Losses, norms and errors of gradients of all steps, and errors of parameters after the last; relative to the
    largest value that the reference has in the tensor."""
    expected, job = torch.load(task.reference, mmap=True), task.plan.job
    drive = task.reference.with_suffix(".drive")
    optimizer = build_optimizer(model, weight_decay=WEIGHT_DECAY, scratch=drive, **OPTIMIZER)
    losses, norms, gradients = [], [], []
    for step, batch in enumerate(batches(model.shape.vocab, job.seq_len, job.global_batch, task.steps)):
        losses.append(model.forward_backward(own_sequences(model, batch)).item())
        _spoil(_gradients(model), task.fault == "gradient")
        gradients.append(_errors(model, _gradients(model), expected["gradients"][step]))
        norms.append(model.clip_grad_norm(MAX_NORM).item())
        optimizer.step()
    moved = _moved(expected["gradients"])
    held = {name: parameter.detach() for name, parameter in model.named_parameters() if name in moved}
    _spoil(held, task.fault == "parameter")
    parameters = expected["parameters"]
    parts, wholes = _errors(model, held, parameters), _errors_of_wholes(model, held, parameters)
    return losses, norms, gradients, {name: max(parts[name], wholes[name]) for name in held}


def _spoil(tensors: dict[str, Tensor], wanted: bool) -> None:
    """What a wrong collective would do: one part of one tensor is a hundredth too large on one rank."""
    if wanted and dist.get_rank() == 1:
        tensor = next(iter(tensors.values()))
        (tensor.to_local() if isinstance(tensor, DTensor) else tensor).mul_(1.01)


def _gradients(model: ParallelModel) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def _errors(model: ParallelModel, found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """By name: the largest difference of an element that this rank holds, over the largest element of the tensor in the
    reference."""
    largest, orders = _largest(expected), model.orders
    return {name: _error(each, expected[name], largest, orders.get(name)) for name, each in found.items()}


def _errors_of_wholes(model: ParallelModel, found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """The same of whole tensors, gathered: no part is missing, and none is there twice."""
    largest = _largest(expected)
    return {name: _error(whole(model, name, each), expected[name], largest) for name, each in found.items()}


def _largest(tensors: dict[str, Tensor]) -> float:
    return max(value.abs().max().item() for value in tensors.values())


def _error(found: Tensor, expected: Tensor, largest: float, order: Sequence[int] | None = None) -> float:
    size = expected.abs().max().item()
    wanted = expected if order is None else expected[list(order)]  # of stacked experts, replicas too
    assert found.shape == wanted.shape
    part = tuple(slice(first, first + count) for first, count in zip(*own_box(found), strict=True))
    own, wanted = local(found), wanted[part]
    assert own.shape == wanted.shape
    worst = (own - wanted).abs().max().item() if own.numel() else 0.0
    return worst / (size if size >= ROUNDING * largest else 1e-2 * largest)


def _moved(gradients: list[dict[str, Tensor]]) -> set[str]:
    """Parameters with a gradient. That of others is zero but for rounding, which AdamW makes into random steps: key
    biases change nothing where no positions turn keys."""
    sizes = [{name: value.abs().max().item() for name, value in step.items()} for step in gradients]
    return {name for step in sizes for name, size in step.items() if size >= ROUNDING * max(step.values())}


def peak_bytes(plan: Plan) -> int:
    """The most bytes that this rank's tensors filled in two steps, building included: the second step has states."""
    config, job = plan.model.config, plan.job
    data = batches(config["vocab_size"], job.seq_len, job.global_batch, 2)
    with PeakMemory() as peak:
        model = build_model(plan, CPU)
        optimizer = build_optimizer(model, weight_decay=WEIGHT_DECAY, **OPTIMIZER)
        for batch in data:
            model.forward_backward(own_sequences(model, batch))
            model.clip_grad_norm(MAX_NORM)
            optimizer.step()
    return peak.bytes
