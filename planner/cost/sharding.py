"""Sharding: the part of a configuration that decides what one layer costs, and how its ranks are grouped."""

from __future__ import annotations

from dataclasses import dataclass

from ..configuration import Configuration, CpAlgorithm, Dispatch
from ..sequence import local_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """Degrees that split the work of one layer on one microbatch; equal shardings cost the same."""

    tp: int = 1
    sp: bool = False
    cp: int = 1
    cp_algorithm: CpAlgorithm = "ring"
    cp_ulysses: int = 1
    ep: int = 1
    etp: int = 1
    microbatch: int = 1
    spread: int = 1  # pipeline ranks that share out embedding and head, beside those of tp
    dispatch: Dispatch = "copies"
    dispatch_chunks: int = 1
    expert_replicas: int = 0

    @property
    def sequence_split(self) -> int:
        """How many ways the tokens outside of tensor-parallel regions are split (Megatron's sp)."""
        return self.tp if self.sp else 1

    @property
    def vocabulary_split(self) -> int:
        """How many ways the rows of embedding and head are split."""
        return self.tp * self.spread

    @property
    def cp_heads(self) -> int:
        """Context-parallel ranks that share out heads; the others of a group form rings."""
        return {"ulysses": self.cp, "usp": self.cp_ulysses}.get(self.cp_algorithm, 1)

    def tokens(self, seq_len: int) -> float:
        """Tokens of a microbatch that one tensor-parallel group computes together, with what pads a sequence."""
        return self.microbatch * local_tokens(seq_len, self.cp, self.sequence_split)

    def kv_heads(self, kv_heads: int) -> int:
        """Key-value heads that each rank holds: split, or replicated when there are fewer than ranks."""
        return max(1, kv_heads // self.tp)


def sharding_of(configuration: Configuration) -> Sharding:
    """The sharding of every layer of a configuration."""
    mesh = configuration.mesh
    return Sharding(
        tp=mesh.tp,
        sp=configuration.sp,
        cp=mesh.cp,
        cp_algorithm=configuration.cp_algorithm,
        cp_ulysses=configuration.cp_ulysses,
        ep=mesh.ep,
        etp=mesh.etp,
        microbatch=configuration.microbatch,
        spread=mesh.pp if configuration.spread_vocabulary else 1,
        dispatch=configuration.dispatch,
        dispatch_chunks=configuration.dispatch_chunks,
        expert_replicas=configuration.expert_replicas,
    )
