"""Shuffle: the tokens of every sequence in the order in which tensor-parallel ranks had better take them to experts.

Of a sequence each rank has an equal part between blocks (sp), and any part computes the same: a token whose experts are
on its rank is not sent. Ids say where a token had better be (planner/experts/token_homes.py). Tokens and targets are
shuffled once, before the first layer; attention alone asks for the order of the sequence, and puts its result back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...planner.experts.token_homes import ANYWHERE, TokenHomes, tp_groups
from ..mesh import Meshes
from .batch import Batch


@dataclass(frozen=True, slots=True)
class Shuffle:
    """`home` uint8 [ids + 1]: a member of this rank's tp group, or ANYWHERE; the last is that of all further ids."""

    home: Tensor
    members: int

    @classmethod
    def of(cls, homes: TokenHomes, meshes: Meshes, device: torch.device) -> Shuffle:
        group = meshes.ep_rank // homes.members % len(tp_groups(meshes.degrees))
        table = bytearray(homes.of_group(group)) + bytes([ANYWHERE])
        return cls(torch.frombuffer(table, dtype=torch.uint8).to(device), homes.members)

    def __call__(self, batch: Batch) -> Batch:
        """The same sequences, with the order that they are in."""
        order = self.order(batch.tokens)
        slots = order[:, 0]
        return replace(batch, tokens=batch.tokens.gather(1, slots), targets=batch.targets.gather(1, slots), order=order)

    def order(self, tokens: Tensor) -> Tensor:
        """As runtime/blocks/order.py has it: members take the first tokens at home there as far as there is room, then
        those that are left in their order; each has its own in the order of the sequence."""
        home = self.home[tokens.clamp(max=len(self.home) - 1)].long()
        each, stays, room = tokens.shape[1] // self.members, torch.zeros_like(home, dtype=torch.bool), list[Tensor]()
        for member in range(self.members):
            own = home == member
            own &= own.cumsum(1) <= each
            stays |= own
            room.append(each - own.sum(1))
        left = (~stays).cumsum(1) - 1
        filled = torch.searchsorted(torch.stack(room, 1).cumsum(1), left, right=True)
        slots = torch.where(stays, home, filled).argsort(dim=1, stable=True)
        return torch.stack((slots, slots.argsort(dim=1)), dim=1)
