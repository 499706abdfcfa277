"""Rounds: groups of several sizes over the same ranks, formed anew in every microbatch.

Parameters, their shards and the reduction of gradients know nothing of it: only attention asks the group of its round.
Each sequence of a group is dealt to its ranks by itself (zigzag), so that all of them have as many visible pairs of
every sequence, and is read by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.cross_entropy import IGNORED
from ....planner.configuration import CpAlgorithm
from ....planner.lengths.assignment import Assignment
from ...blocks.core import Core
from ...blocks.positions import Positions
from ...blocks.transformer import Layer, Transformer
from .algorithms import CORES, Groups
from .tiles import Views
from .zigzag import CPU, Zigzag


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank has in one round: `tokens` and `targets` [1, local], where each token stands in its sequence, and
    how many of its tokens each sequence has, in a group of `degree` ranks."""

    degree: int
    tokens: Tensor
    targets: Tensor
    positions: Tensor
    sizes: tuple[int, ...]


@dataclass(slots=True)
class Rounds:
    """The lanes of a stage: `lane` is this rank's, `groups` its group of each degree above one. `now` is the share of
    the round at hand, which attention and positions look at."""

    lane: int
    groups: Mapping[int, dist.ProcessGroup]
    algorithm: CpAlgorithm
    multiple: int
    device: torch.device
    now: Share | None = None
    places: Positions = field(default_factory=Positions)

    def enter(self, share: Share) -> None:
        """Begin a round."""
        self.now = share
        self.places.version += 1

    def spread(self, part: Transformer) -> None:
        """Let every layer read sequence after sequence in the group of the round, and positions be those of the round's
        tokens."""
        views = Views()
        for layer in part.model.layers.values():
            assert isinstance(layer, Layer)
            assert isinstance(layer.self_attn.core, Core)
            layer.self_attn.core = RoundCore(layer.self_attn.core, self, views)
        self.places = part.model.positions
        self.places.order = self._positions

    def _positions(self, length: int, device: torch.device) -> Tensor:
        if self.now is None or length != len(self.now.positions):
            raise ValueError(f"{length} tokens are not those of the round")
        return self.now.positions.to(device)

    def shares(self, assignment: Assignment, sequences: Sequence[Tensor]) -> list[Share]:
        """This rank's part of every round of a step; sequences [tokens + 1] are those of all ranks."""
        found = []
        for each in assignment.rounds:
            mine = [group for group in each.groups if group.first <= self.lane < group.first + group.degree]
            if mine:
                [group] = mine
                chosen = [sequences[i] for i in group.sequences]
                found.append(self._share(chosen, group.degree, self.lane - group.first))
            else:  # its collectives of parameters go on
                found.append(self._nothing())
        return found

    def _share(self, sequences: Sequence[Tensor], degree: int, rank: int) -> Share:
        dealt = [self._dealt(each, degree, rank) for each in sequences]
        tokens, targets, positions = (torch.cat(parts).to(self.device) for parts in zip(*dealt, strict=True))
        return Share(degree, tokens[None], targets[None], positions, tuple(len(each[0]) for each in dealt))

    def _dealt(self, sequence: Tensor, degree: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, targets and positions of one rank of a group; what is padded counts nothing."""
        tokens, targets = sequence[:-1], sequence[1:]
        if degree == 1:
            missing = -len(tokens) % self.multiple
            places = torch.arange(len(tokens) + missing).clamp(max=len(tokens) - 1)
            return F.pad(tokens, (0, missing)), F.pad(targets, (0, missing), value=IGNORED), places
        layout = Zigzag(seq_len=len(tokens), size=degree, multiple=self.multiple)
        own = (layout.share(rows[None], rank, padding)[0] for rows, padding in ((tokens, 0), (targets, IGNORED)))
        return next(own), next(own), layout.positions(rank, CPU)

    def _nothing(self) -> Share:
        """A few tokens that count nothing."""
        tokens = torch.zeros(1, self.multiple, dtype=torch.int64, device=self.device)
        targets = torch.full_like(tokens, IGNORED)
        return Share(1, tokens, targets, torch.arange(self.multiple, device=self.device), (self.multiple,))


class RoundCore(nn.Module):
    """Takes the place of a `Core`: reads every sequence of the round by itself, in the round's group."""

    def __init__(self, core: Core, rounds: Rounds, views: Views):
        super().__init__()
        self.rounds = rounds
        make = CORES[rounds.algorithm]
        wide = {degree: make(core, Groups(whole=group), views) for degree, group in rounds.groups.items()}
        self.cores: dict[int, nn.Module] = {1: core, **wide}  # without parameters: no modules of this one

    def forward(self, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None = None) -> Tensor:
        now = self.rounds.now
        assert now is not None
        core = self.cores[now.degree]
        parts = zip(*(torch.split(x, list(now.sizes), dim=2) for x in (query, key, value)), strict=True)
        return torch.cat([cast(Tensor, core(*(x.contiguous() for x in part))) for part in parts], dim=2)
