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
from .token_ring import TokenRingCore
from .ulysses import UlyssesCore


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The ranks that share a sequence, `whole`. In usp, neighbours share out `heads` and their counterparts form a
    `ring`; None: a group of one."""

    whole: dist.ProcessGroup
    heads: dist.ProcessGroup | None = None
    ring: dist.ProcessGroup | None = None


def _product(core: Core, groups: Groups) -> nn.Module:
    inner: nn.Module = core if groups.ring is None else RingCore(core, groups.ring)
    return inner if groups.heads is None else UlyssesCore(inner, groups.heads)


CORES: dict[CpAlgorithm, Callable[[Core, Groups], nn.Module]] = {
    "ring": lambda core, groups: RingCore(core, groups.whole),
    "ulysses": lambda core, groups: UlyssesCore(core, groups.whole),
    "usp": _product,
    "token-ring": lambda core, groups: TokenRingCore(core, groups.whole),
    "allgather": lambda core, groups: GatherCore(core, groups.whole),
}
