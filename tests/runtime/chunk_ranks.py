"""What ranks do in the tests of chunked logits: found by import, run by harness.run_ranks."""

from __future__ import annotations

import torch
from alive import Alive
from workers import batches, own_sequences

from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model


def step(plan: Plan) -> tuple[int, int]:
    """Elements of the largest tensor that a step makes, and bytes at its fullest moment."""
    model = build_model(plan, torch.device("cpu"))
    (batch,) = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)
    with Alive() as alive:
        model.forward_backward(own_sequences(model, batch))
    return alive.largest, alive.peak
