"""Load: how often each expert of a layer was chosen in the step so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ... import compat
from ...blocks.router import Routing


class Load:
    """Counts of one layer on one rank, int64 [experts]; as a regulator it counts what is routed.

    What runs without gradients, or again in a backward pass, is not counted.
    """

    def __init__(self, layer: int, experts: int, device: torch.device):
        self.layer = layer
        self.counts = torch.zeros(experts, dtype=torch.int64, device=device)

    def reset(self) -> None:
        """Begin a step."""
        self.counts.zero_()

    def __call__(self, routing: Routing) -> Routing:
        if torch.is_grad_enabled() and not compat.in_backward():
            self.counts += count(routing)
        return routing


def count(routing: Routing) -> Tensor:
    """How often each expert is chosen, int64 [experts], without asking the host."""
    flat = routing.experts.flatten()
    counts = flat.new_zeros(routing.probabilities.shape[-1])
    return counts.scatter_add_(0, flat, torch.ones_like(flat))


@torch.no_grad()
def add_up(loads: Sequence[Load], groups: Sequence[dist.ProcessGroup]) -> Tensor:
    """Counts of a step int64 [layers, experts] over all ranks of the `groups`, one message a group."""
    counts = torch.stack([load.counts for load in loads])
    for group in groups:
        dist.all_reduce(counts, group=group)
    return counts
