"""What a worker of the closed loop does: build each plan, warm it up and time its steps, round after round."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model
from meshwright.runtime.model import ParallelModel
from meshwright.runtime.optimizer import build_optimizer

CLIP = 1.0
CPU = torch.device("cpu")


def rounds(plans: Sequence[Plan], count: int, steps: int) -> list[list[float]]:
    """Seconds of a step, by plan and round: the median of `steps`, after one that warms up.

    All ranks call this. Each round begins at another plan, so that none always follows the same one's caches.
    """
    torch.manual_seed(0)
    found: list[list[float]] = [[] for _ in plans]
    gc.disable()  # a collection in the middle of a step is not the plan's speed
    for number in range(count):
        first = number * len(plans) // count
        for place in (*range(first, len(plans)), *range(first)):
            found[place].append(timed(plans[place], steps))
            gc.collect()
        if dist.get_rank() == 0:
            print(f"round {number + 1} of {count}", file=sys.stderr, flush=True)
    return found


def timed(plan: Plan, steps: int) -> float:
    """Median seconds of a step of a plan, from barrier to barrier, the slowest rank's."""
    model = build_model(plan, CPU)
    optimizer = build_optimizer(model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8)
    tokens = _tokens(plan, model)
    samples = []
    for _ in range(1 + steps):
        dist.barrier()
        begin = time.perf_counter()
        step(model, optimizer, tokens)
        samples.append(time.perf_counter() - begin)
    slowest = torch.tensor(samples[1:], dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest.median())


def step(model: ParallelModel, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> tuple[float, float]:
    """One training step as `runtime.train.Loop.step` does it; the loss and the norm of the gradients."""
    optimizer.zero_grad()
    loss = model.forward_backward(tokens)
    norm = model.clip_grad_norm(CLIP)
    loss_value, norm_value = torch.stack([loss.detach().float(), norm.detach().float()]).tolist()
    optimizer.step()
    return loss_value, norm_value


def _tokens(plan: Plan, model: ParallelModel) -> torch.Tensor:
    """This rank's sequences."""
    rows = plan.configuration.local_batches[model.meshes.dp_rank]
    drawn = torch.Generator().manual_seed(model.meshes.dp_rank)
    return torch.randint(model.shape.vocab, (rows, plan.job.seq_len + 1), generator=drawn)
