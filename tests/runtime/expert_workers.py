"""What ranks do in the tests of experts: found by import, run by harness.run_ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY, batches, full, own_sequences

from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model
from meshwright.runtime.expert_recipe import ExpertRecipe
from meshwright.runtime.optimizer import build_optimizer

CPU = torch.device("cpu")


def train(
    plan: Plan, steps: int, first_gradients: Path, recipe: dict[str, Any]
) -> tuple[list[float], list[float], dict[str, float]]:
    """As workers.train, with the experts balanced."""
    data = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, steps)
    model = build_model(plan, CPU, experts=ExpertRecipe.model_validate(recipe))
    optimizer = build_optimizer(model, weight_decay=WEIGHT_DECAY, **OPTIMIZER)
    expected = torch.load(first_gradients)
    losses, norms, errors = [], [], {}
    for step, batch in enumerate(data):
        losses.append(model.forward_backward(own_sequences(model, batch)).item())
        if step == 0:
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                difference = full(parameter.grad) - expected[name]
                errors[name] = (difference.abs().max() / expected[name].abs().max()).item()
        norms.append(model.clip_grad_norm(MAX_NORM).item())
        optimizer.step()
    return losses, norms, errors
