"""One device by hand: weights in float32, products in bf16 by autocast, every block compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from handwritten.model import Llama, Size

Step = Callable[[Tensor], float]


def make_step(size: Size, microbatch: int, device: torch.device) -> Step:
    """A function that trains one step on the tokens and returns their loss."""
    model = Llama(size).to(device)
    for block in model.blocks:
        block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(tokens: Tensor) -> float:
        optimizer.zero_grad()
        parts = tokens.split(microbatch)
        total = torch.zeros((), device=device)
        for part in parts:
            with torch.autocast(device.type, torch.bfloat16):
                loss = model(part) / len(parts)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total.item()

    return step
