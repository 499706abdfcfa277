"""Configuration: one point of the search space, before anybody has priced it.

Frozen and cheap to make: the search builds many thousands. A Plan is a Configuration that was
chosen, beside its prediction and its proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .schedule.placement import Placement, stages_of
from .schedule.table import placement_of

ScheduleName = str
"""One of `schedule.names()`."""
Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Degrees of parallelism. Experts use the same ranks folded: etp x ep x edp = tp x cp x dp."""

    pp: int = 1
    dp: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1
    etp: int = 1

    @property
    def world(self) -> int:
        return self.pp * self.dp * self.cp * self.tp

    @property
    def edp(self) -> int:
        """Replicas of each expert shard."""
        return self.dp * self.cp * self.tp // (self.ep * self.etp)

    def rank(self, pp: int, dp: int, cp: int, tp: int) -> int:
        """Global rank of a coordinate: tp varies fastest, pp slowest (Megatron's and torchtitan's order)."""
        return ((pp * self.dp + dp) * self.cp + cp) * self.tp + tp


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """How a model is spread over the devices, complete.

    `stage_layers[v]` is the number of layers of virtual stage v, which runs on the pipeline rank that the schedule
    gives it (`rank_of`); the first virtual stage also holds the embedding, the last one the final norm and the head.
    """

    mesh: Mesh
    stage_layers: tuple[int, ...]
    microbatch: int  # sequences
    microbatches: int  # per pipeline and step
    schedule: ScheduleName = "1f1b"
    vpp: int = 1
    zero: int = 1
    sp: bool = False
    recompute: tuple[Recompute, ...] = ("none",)  # per pipeline rank
    offload: float = 0.0  # fraction of the optimizer states kept in host memory
    cp_algorithm: Literal["ring", "ulysses", "allgather"] = "ring"

    def layer_range(self, stage: int) -> range:
        """Indices of the layers of one virtual stage."""
        first = sum(self.stage_layers[:stage])
        return range(first, first + self.stage_layers[stage])

    def stages_of(self, pp_rank: int) -> Sequence[int]:
        """Virtual stages that run on one pipeline rank, ascending."""
        return stages_of(self.placement, pp_rank)

    def rank_of(self, stage: int) -> int:
        """The pipeline rank of a virtual stage."""
        return self.placement[stage]

    @property
    def placement(self) -> Placement:
        """The pipeline rank of every virtual stage."""
        return placement_of(self.schedule, self.mesh.pp, self.vpp)
