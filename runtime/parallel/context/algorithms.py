"""Algorithms: one name and one core for each way to read a sequence that is spread over ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.distributed as dist
from torch import nn

from ....planner.configuration import CpAlgorithm
from ...blocks.core import Core
from .gather import GatherCore
from .ring import RingCore
from .tiles import Views
from .token_ring import TokenRingCore
from .ulysses import UlyssesCore


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The ranks that share a sequence, `whole`. In usp, neighbours share out `heads` and their counterparts form a
    `ring`; None: a group of one."""

    whole: dist.ProcessGroup
    heads: dist.ProcessGroup | None = None
    ring: dist.ProcessGroup | None = None

    def readers(self, algorithm: CpAlgorithm) -> int:
        """Parts that the sequence is in where attention reads it: one of each rank, or of each group that shares out
        heads."""
        if algorithm == "ulysses" or (algorithm == "usp" and self.ring is None):
            return 1
        return self.ring.size() if algorithm == "usp" and self.ring is not None else self.whole.size()


def _product(core: Core, groups: Groups, views: Views) -> nn.Module:
    inner: nn.Module = core if groups.ring is None else RingCore(core, groups.ring, views)
    return inner if groups.heads is None else UlyssesCore(inner, groups.heads)


CORES: dict[CpAlgorithm, Callable[[Core, Groups, Views], nn.Module]] = {
    "ring": lambda core, groups, views: RingCore(core, groups.whole, views),
    "ulysses": lambda core, groups, _: UlyssesCore(core, groups.whole),
    "usp": _product,
    "token-ring": lambda core, groups, views: TokenRingCore(core, groups.whole, views),
    "allgather": lambda core, groups, views: GatherCore(core, groups.whole, views),
}
