"""What ranks do in the tests of losses: found by import, run by harness.run_ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from workers import batches, full, own_sequences

from meshwright.kernels.terms import Terms
from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model


def steps(plans: Sequence[Plan], added: Terms, expected: Path) -> list[tuple[float, float, list[tuple[int, ...]]]]:
    """Of a step of each plan: the loss, the largest error of a gradient over its largest value, and the sizes of what
    was gathered in float32."""
    gradients, found = torch.load(expected), []
    for plan in plans:
        model = build_model(plan, torch.device("cpu"), added=added)
        (batch,) = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)
        sizes: list[tuple[int, ...]] = []
        gather = dist.all_gather

        def seen(every: Any, own: Any, *args: Any, to: Any = sizes, call: Any = gather, **options: Any) -> Any:
            to.append(tuple(own.shape))
            return call(every, own, *args, **options)

        dist.all_gather = seen
        try:
            loss = model.forward_backward(own_sequences(model, batch)).item()
        finally:
            dist.all_gather = gather
        errors = [
            (full(parameter.grad) - gradients[name]).abs().max() / gradients[name].abs().max()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        ]
        found.append((loss, max(errors).item(), sizes))
    return found
