"""What ranks do in the tests of recomputation: found by import, run by harness.run_ranks."""

from __future__ import annotations

import time

import torch
from alive import Alive

from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model


def kept(plan: Plan) -> int:
    """Bytes that the first layer keeps of one microbatch between forward and backward."""
    model = build_model(plan, torch.device("cpu"))
    layer = model.parts[0].model.layers["0"]  # type: ignore[union-attr, index]
    config, split = plan.model.config, plan.mesh.tp if plan.sp else 1
    x = torch.randn(plan.microbatch, plan.job.seq_len // split, config["hidden_size"]).requires_grad_()
    layer(x)  # positions are computed once and kept for all layers
    with Alive() as alive:
        output = layer(x)
        least = min(_later(alive) for _ in range(10))
    return least - output.untyped_storage().nbytes() + x.untyped_storage().nbytes()


def _later(alive: Alive) -> int:
    """gloo lets go of what it has sent a moment after everybody has it."""
    time.sleep(0.02)
    return alive.bytes
