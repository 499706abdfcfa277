"""What ranks do in the tests of offloading: found by import, run by harness.run_ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from training_ranks import run_training
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY, batches, full, own_sequences

from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model
from meshwright.runtime.checkpoint import Checkpointer, Position
from meshwright.runtime.model import ParallelModel
from meshwright.runtime.optimizer import build_optimizer
from meshwright.runtime.recipe import Recipe

CPU = torch.device("cpu")


def _made(plan: Plan, folder: Path) -> tuple[ParallelModel, torch.optim.Optimizer]:
    model = build_model(plan, CPU)
    return model, build_optimizer(model, weight_decay=WEIGHT_DECAY, scratch=folder / "drive", **OPTIMIZER)


def _steps(model: ParallelModel, optimizer: torch.optim.Optimizer, data: list[Tensor]) -> list[float]:
    losses = []
    for batch in data:
        losses.append(model.forward_backward(own_sequences(model, batch)).item())
        model.clip_grad_norm(MAX_NORM)
        optimizer.step()
    return losses


def data(plan: Plan, steps: int) -> list[Tensor]:
    return batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, steps)


def weights(plan: Plan, steps: int, folder: Path) -> list[tuple[str, Any]]:
    """Weights after some steps, whole."""
    model, optimizer = _made(plan, folder)
    _steps(model, optimizer, data(plan, steps))
    return [(name, full(parameter.detach()).tolist()) for name, parameter in model.named_parameters()]


def moved(before: Plan, after: Plan | None, folder: Path) -> list[float]:
    """Losses of three steps after three steps; where `after` is given, resumed by it from a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    model, optimizer = _made(before, folder / "before")
    given = data(before, 6)
    _steps(model, optimizer, given[:3])
    if after is not None:
        with_states = {"fingerprint": "", "keep_last": 2, "timeout_s": 30.0}
        saving = Checkpointer(folder, model, optimizer, **with_states)  # type: ignore[arg-type]
        saving.save(Position(3, 24))
        saving.close()
        model, optimizer = _made(after, folder / "after")
        Checkpointer(folder, model, optimizer, **with_states).restore()  # type: ignore[arg-type]
    return _steps(model, optimizer, given[3:])


def launched(folder: Path, plan: Plan) -> list[float]:
    """Losses of a run as a launch makes it."""
    text, drive = folder / "text.txt", folder / "drive"
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        text.write_text("one two three " * 200)
    dist.barrier()
    recipe = Recipe(steps=3, data=str(text), checkpoint_every=2, timeout_s=30.0, offload_folder=str(drive))
    run_training(folder / "run", plan, recipe)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]
