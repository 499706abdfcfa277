"""Table: from the experts that a router speaks of to the slots that dispatch sends tokens to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...slots import Order, slots_by_expert

_OPEN = -1


@dataclass(frozen=True, slots=True, eq=False)
class SlotTable:
    """`turns` int64 [experts, most]: the slots that tokens of this rank may take; of an expert with fewer the first
    `counts` int64 [experts] of them (None: each has one).

    Where slots of one expert lie on several nodes, `nodes` int64 [experts, most] are these, and `settled` int64
    [experts] is the node of an expert that has slots on one alone, below zero for the others.
    """

    turns: Tensor
    counts: Tensor | None = None
    nodes: Tensor | None = None
    settled: Tensor | None = None

    def __call__(self, experts: Tensor) -> Tensor:
        """Experts int64 [tokens, top_k] to slots [tokens, top_k], without asking the host.

        Which replica a token takes depends on its number here and on its experts: a repetition, as in recomputation,
        sends it to the same.
        """
        if self.counts is None:
            return self.turns[:, 0][experts]
        token, counts = torch.arange(len(experts), device=experts.device).unsqueeze(-1), self.counts[experts]
        if self.nodes is None or self.settled is None:
            return self.turns[experts, token % counts]
        place = torch.arange(self.turns.shape[1], device=experts.device)
        waits = (place - token.unsqueeze(-1)) % counts.unsqueeze(-1)  # turns until it is the next
        waits = waits + len(place) * ~_visited(self.nodes[experts], self.settled[experts])
        waits = waits.masked_fill(place >= counts.unsqueeze(-1), 2 * len(place))
        return self.turns[experts, waits.argmin(-1)]


def _visited(nodes: Tensor, settled: Tensor) -> Tensor:
    """bool [tokens, top_k, most]: whether a token visits these `nodes` anyway, for those of its experts that are
    `settled` [tokens, top_k]."""
    found = torch.zeros_like(nodes, dtype=torch.bool)
    for choice in range(settled.shape[1]):
        found |= nodes == settled[:, choice, None, None]
    return found


def slot_table(order: Order, nodes: Sequence[Hashable], rank: int, device: torch.device) -> SlotTable:
    """Of a layer with `order` on ep ranks that lie on `nodes`, for the tokens of one of them.

    An expert with replicas is looked for on the rank's own node first, then on a node that the token visits anyway, for
    an expert that is nowhere else; where there are several, or none, tokens take them in turn, those of rank r
    beginning with the r-th.
    """
    each = len(order) // len(nodes)
    options = [_options(slots, nodes, rank, each) for slots in slots_by_expert(order)]
    most = max(map(len, options))
    turns = [slots + slots[:1] * (most - len(slots)) for slots in options]
    if most == 1:
        return SlotTable(torch.tensor(turns, device=device))
    numbers = {node: number for number, node in enumerate(dict.fromkeys(nodes))}
    where = [[numbers[nodes[slot // each]] for slot in slots] for slots in turns]
    settled = [places[0] if len(set(places)) == 1 else _OPEN for places in where]
    found = [turns, [len(slots) for slots in options], *([where, settled] if _OPEN in settled else [])]
    return SlotTable(*(torch.tensor(part, device=device) for part in found))


def _options(slots: list[int], nodes: Sequence[Hashable], rank: int, each: int) -> list[int]:
    """The slots of an expert that tokens of a rank may take, first those of the rank's first turn."""
    near = [slot for slot in slots if nodes[slot // each] == nodes[rank]] or slots
    first = rank % len(near)
    return near[first:] + near[:first]
