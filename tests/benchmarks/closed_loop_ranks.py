"""What a worker of the closed loop does: build every plan, warm it up, and time its steps, round after round."""

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
    """Seconds of a step, by plan and round: the median of `steps`. All ranks call this.

    Every plan is built once, takes a step that sets up what is made in the first, and stays. In a round a step warms
    caches up before those that are timed, as steps of a training follow each other. Each round begins at another plan,
    so that none always comes behind the same one.
    """
    gc.disable()  # a collection in the middle of a step is not the plan's speed
    trainers = [Trainer(plan) for plan in plans]
    for each in trainers:
        step(each.model, each.optimizer, each.tokens)
    found: list[list[float]] = [[] for _ in plans]
    for number in range(count):
        first = number * len(plans) // count
        for place in (*range(first, len(plans)), *range(first)):
            found[place].append(trainers[place].timed(steps))
        gc.collect()
        if dist.get_rank() == 0:
            print(f"round {number + 1} of {count}", file=sys.stderr, flush=True)
    return found


class Trainer:
    """A plan as this rank trains it."""

    def __init__(self, plan: Plan, device: torch.device = CPU):
        self.model = build_model(plan, device)
        self.optimizer = build_optimizer(self.model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8)
        self.tokens = _tokens(plan, self.model).to(device)

    def timed(self, steps: int) -> float:
        """Median seconds of a step, from barrier to barrier, the slowest rank's, after one that is not counted."""
        step(self.model, self.optimizer, self.tokens)
        samples = []
        for _ in range(steps):
            dist.barrier()
            begin = time.perf_counter()
            step(self.model, self.optimizer, self.tokens)
            samples.append(time.perf_counter() - begin)
        slowest = torch.tensor(samples, dtype=torch.float64)
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
