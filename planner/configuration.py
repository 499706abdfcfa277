"""Configuration: one point of the search space, before anybody has priced it.

Frozen and cheap to make: the search builds many thousands. A Plan is a Configuration that was
chosen, beside its prediction and its proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .schedule.placement import Placement
from .schedule.table import placement_of, stages_by_rank

ScheduleName = str
"""One of `schedule.names()`, or "custom"."""
Recompute = Literal["none", "selective", "full"]
CpAlgorithm = Literal["ring", "ulysses", "usp", "token-ring", "allgather"]
OffloadTo = Literal["cpu", "nvme"]
Dispatch = Literal["copies", "ranks", "nodes"]
"""What is sent when tokens go to their experts: a copy for each expert, for each rank that a token visits, or for each
node (domain of the fast fabric), which passes it on inside (a hierarchical, 2-D all-to-all)."""

Module = Literal["core_attn", "layernorm", "mlp", "moe", "moe_act", "mla_up_proj"]
"""What selective recomputation can give up (Megatron-Core's `--recompute-modules`)."""

CORE: tuple[Module, ...] = ("core_attn",)
"""What it gives up where nothing else is said (Korthikanti et al., arXiv:2205.05198, section 5)."""


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

    def ep_per_node(self, domain_devices: int) -> int:
        """Ranks of an ep group in each domain of so many devices that the fast fabric joins; ep where it lies in one,
        and 1 where it does not cross domains evenly."""
        block = self.ep * self.etp
        if domain_devices % block == 0:
            return self.ep
        whole = block % domain_devices == 0 and domain_devices % self.etp == 0
        return domain_devices // self.etp if whole else 1

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
    in_flight: tuple[int, ...] = ()  # the most stage inputs that each pipeline rank may hold; one for all; (): no limit
    actions: tuple[str, ...] = ()  # of the custom schedule: cells like 0F0 with commas between, a row for each rank
    zero: int = 1
    sp: bool = False
    recompute: tuple[Recompute, ...] = ("none",)  # per pipeline rank
    recompute_operations: tuple[Module, ...] = CORE  # what "selective" gives up
    dp_replicate: int = 1  # copies of a ZeRO group (hybrid sharding): ZeRO shards over dp x cp / dp_replicate ranks
    offload: float = 0.0  # fraction of the optimizer states kept off the device
    offload_to: OffloadTo = "cpu"
    swap_layers: int = 0  # layers on the device while the others are swapped out to the host; 0: all stay
    cp_algorithm: CpAlgorithm = "ring"
    cp_ulysses: int = 1  # of the cp ranks, how many share out heads in usp; the others form rings
    logits_chunks: int = 1  # parts of a sequence in which logits and loss are computed
    spread_vocabulary: bool = False  # embedding and head over all pipeline ranks
    shares: tuple[int, ...] = ()  # microbatches of each dp rank, `microbatches` being the most of them; (): all alike
    dispatch: Dispatch = "copies"  # what is sent when tokens go to their experts
    dispatch_chunks: int = 1  # parts of a microbatch whose dispatch, experts and combine run overlapped
    expert_replicas: int = 0  # slots beyond one for each expert, equally many on each ep rank

    def layer_range(self, stage: int) -> range:
        """Indices of the layers of one virtual stage."""
        first = sum(self.stage_layers[:stage])
        return range(first, first + self.stage_layers[stage])

    def stages_of(self, pp_rank: int) -> Sequence[int]:
        """Virtual stages that run on one pipeline rank, ascending."""
        return stages_by_rank(self.schedule, self.mesh.pp, self.vpp, self.actions)[pp_rank]

    def rank_of(self, stage: int) -> int:
        """The pipeline rank of a virtual stage."""
        return self.placement[stage]

    @property
    def placement(self) -> Placement:
        """The pipeline rank of every virtual stage."""
        return placement_of(self.schedule, self.mesh.pp, self.vpp, self.actions)

    @property
    def local_batches(self) -> tuple[int, ...]:
        """Sequences of a step, by data-parallel rank."""
        return tuple(self.microbatch * each for each in self.shares or (self.microbatches,) * self.mesh.dp)

    @property
    def batch(self) -> int:
        """Sequences of a step."""
        return self.microbatch * (sum(self.shares) if self.shares else self.mesh.dp * self.microbatches)

    def of_replica(self, dp_rank: int) -> Configuration:
        """What the pipeline of one data-parallel rank computes: its own number of microbatches."""
        return replace(self, microbatches=self.shares[dp_rank]) if self.shares else self

    @property
    def stages(self) -> int:
        """Virtual stages of the whole pipeline."""
        return len(self.placement)

    def holds_last_stage(self, pp_rank: int) -> bool:
        """Whether a pipeline rank has the final norm and the head."""
        return self.placement[-1] == pp_rank


LEVERS = (
    "zero", "sp", "recompute", "recompute_operations", "dp_replicate", "offload", "offload_to", "swap_layers",
    "cp_algorithm", "cp_ulysses", "logits_chunks", "spread_vocabulary", "shares",
    "dispatch", "dispatch_chunks", "expert_replicas",
)  # fmt: skip
"""Fields that a Plan and a Configuration have in common under the same names, beside the mesh and the schedule."""


def levers(of: object) -> dict[str, Any]:
    """The fields of LEVERS of a Plan or a Configuration."""
    return {name: getattr(of, name) for name in LEVERS}
