"""What ranks do in the tests of head-wise sharded attention: found by import, run by harness.run_ranks."""

from __future__ import annotations

import torch
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY, batches, own_sequences

from meshwright.planner.plan import Plan
from meshwright.runtime.attention_recipe import S2Recipe
from meshwright.runtime.build import build_model
from meshwright.runtime.optimizer import build_optimizer


def losses(plan: Plan, sharded: S2Recipe | None) -> list[float]:
    """Losses and gradient norms of three steps."""
    model = build_model(plan, torch.device("cpu"), sharded=sharded)
    optimizer = build_optimizer(model, weight_decay=WEIGHT_DECAY, **OPTIMIZER)
    found = []
    for batch in batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 3):
        found.append(model.forward_backward(own_sequences(model, batch)).item())
        found.append(model.clip_grad_norm(MAX_NORM).item())
        optimizer.step()
    return found
