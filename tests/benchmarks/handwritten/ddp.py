"""Data parallelism by hand: DistributedDataParallel, one reduction a step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from handwritten.model import Llama, Size

Step = Callable[[Tensor], float]


def make_step(size: Size, microbatch: int, device: torch.device) -> Step:
    """A function that trains one step on this rank's tokens and returns their loss."""
    model = DistributedDataParallel(Llama(size).to(device), gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(tokens: Tensor) -> float:
        optimizer.zero_grad()
        parts = tokens.split(microbatch)
        total = torch.zeros((), device=device)
        for number, part in enumerate(parts):
            with nullcontext() if number == len(parts) - 1 else model.no_sync():
                loss = model(part) / len(parts)
                loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total.item()

    return step
