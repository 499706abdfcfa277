"""What ranks do in the tests of groups that change from round to round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY, gradient_errors

from meshwright.planner.lengths.assignment import Assignment
from meshwright.planner.plan import Plan
from meshwright.runtime.assign import Assigner
from meshwright.runtime.build import build_model
from meshwright.runtime.optimizer import build_optimizer


def sequences(vocab: int, lengths: list[int], seed: int = 0) -> list[Tensor]:
    """Of so many tokens, and one more that the last of them is to tell."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (length + 1,), generator=generator) for length in lengths]


Found = tuple[list[float], list[float], dict[str, float], list[Any]]


def train_all(
    plans: list[Plan], steps: list[list[int]], expected: Path, assignments: list[list[Assignment] | None]
) -> list[Found]:
    """Several plans one after another, each with its assignments, or those of the solver."""
    return [train_rounds(plan, steps, expected, each) for plan, each in zip(plans, assignments, strict=True)]


def train_rounds(plan: Plan, steps: list[list[int]], expected: Path, assignments: list[Assignment] | None) -> Found:
    """Losses, norms, errors of the first gradients as `workers.train` has them, and the degrees of every round."""
    model, assigner = build_model(plan, torch.device("cpu")), Assigner(plan)
    optimizer = build_optimizer(model, weight_decay=WEIGHT_DECAY, **OPTIMIZER)
    losses, norms, errors, used = [], [], {}, []
    for step, lengths in enumerate(steps):
        assignment = assigner.assign(lengths, lengths) if assignments is None else assignments[step]
        batch = sequences(plan.model.config["vocab_size"], lengths, step)
        losses.append(model.forward_backward_rounds(batch, assignment).item())
        if step == 0:
            errors = gradient_errors(model, torch.load(expected))
        norms.append(model.clip_grad_norm(MAX_NORM).item())
        optimizer.step()
        used += [[group.degree for group in each.groups] for each in assignment.rounds]
    return losses, norms, errors, used


def drawn(count: int, most: int, seed: int) -> list[int]:
    """Lengths with a long tail, the longest among them."""
    found = np.random.default_rng(seed).geometric(0.12, count)
    return [most, *np.minimum(found, most).tolist()][:count]
