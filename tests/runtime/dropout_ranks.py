"""What ranks do in the tests of dropout: found by import, run by harness.run_ranks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from workers import batches, full, own_sequences
from worst import worst

from meshwright.kernels.dropout import draw
from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model

SEED = 5


def draws(first: int = 0) -> Tensor:
    """Of the eight sequences of a batch."""
    return draw(SEED, torch.arange(first, first + 8))


def dropped(plans: list[Plan], expected: Path) -> list[tuple[float, float]]:
    """For each mesh: the loss of a batch, and the largest error of a gradient beside the largest gradient."""
    gradients = torch.load(expected)
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    found = []
    for plan in plans:
        model = build_model(plan, torch.device("cpu"))
        (batch,) = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)
        own = draws().chunk(model.meshes.dp_size)[model.meshes.dp_rank]
        loss = model.forward_backward(own_sequences(model, batch), draws=own)
        errors = [(full(p.grad) - gradients[name]).abs().max() for name, p in model.named_parameters() if p is not None]
        found.append((loss.item(), worst(error.item() for error in errors) / largest))
    return found
