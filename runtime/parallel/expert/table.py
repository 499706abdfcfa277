"""Table: from the experts that a router speaks of to the slots that dispatch sends tokens to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...slots import Order, slots_by_expert


@dataclass(frozen=True, slots=True, eq=False)
class SlotTable:
    """`turns` int64 [experts, most]: the slots that this rank's tokens take in turn; of an expert with fewer the first
    `counts` int64 [experts] of them; None: each has one."""

    turns: Tensor
    counts: Tensor | None

    def __call__(self, experts: Tensor) -> Tensor:
        """Experts int64 [tokens, top_k] to slots [tokens, top_k], without asking the host.

        Which replica a token takes depends on its number here and on nothing else: a repetition, as in recomputation,
        sends it to the same.
        """
        if self.counts is None:
            return self.turns[:, 0][experts]
        token = torch.arange(len(experts), device=experts.device).unsqueeze(-1)
        return self.turns[experts, token % self.counts[experts]]


def slot_table(order: Order, nodes: Sequence[Hashable], rank: int, device: torch.device) -> SlotTable:
    """Of a layer with `order` on ep ranks that lie on `nodes`, for the tokens of one of them.

    An expert with replicas is looked for on the rank's own node first; where there are several, tokens take them in
    turn, those of rank r beginning with the r-th.
    """
    each = len(order) // len(nodes)
    options = [_options(slots, nodes, rank, each) for slots in slots_by_expert(order)]
    most = max(map(len, options))
    turns = torch.tensor([slots + slots[:1] * (most - len(slots)) for slots in options], device=device)
    counts = torch.tensor([len(slots) for slots in options], device=device)
    return SlotTable(turns, counts if most > 1 else None)


def _options(slots: list[int], nodes: Sequence[Hashable], rank: int, each: int) -> list[int]:
    near = [slot for slot in slots if nodes[slot // each] == nodes[rank]] or slots
    first = rank % len(near)
    return near[first:] + near[:first]
