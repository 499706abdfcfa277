"""S2Recipe: which heads see what, where attention is head-wise sharded, `s2` of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, field_validator

from ..errors import Problem
from ..kernels.facts.sparse import Pattern, dense_flops
from ..planner.plan import Plan
from ..schema import Frozen
from .blocks.shape import Shape, read_shape

_BACKWARD = 2  # times the FLOPs of the forward pass


class S2Recipe(Frozen):
    """S2-Attention (arXiv:2407.17678): every group of heads that share a key has a shard of the sequence."""

    block: int = Field(128, ge=16, description="tokens of a block; a multiple of 128 for the fast path on CUDA devices")
    local_blocks: int = Field(8, gt=0, description="nearest blocks that every head sees, its own included")
    stride: int = Field(4, gt=1, description="of the blocks beyond, a head sees every so many-th")
    dense_heads: int = Field(0, ge=0, description="key-value heads that see everything, the first ones")
    dense_every: int = Field(0, ge=0, description="every so many-th layer is dense, the first one too; 0: none")

    @field_validator("block")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"must be a power of two, for example {1 << value.bit_length()}")
        return value

    def sparse(self, index: int) -> bool:
        """Whether layer `index` is."""
        return self.dense_every == 0 or index % self.dense_every != 0

    def pattern(self, shape: Shape, first_head: int = 0) -> Pattern:
        """For heads of a model from `first_head` on."""
        return Pattern(
            block=self.block,
            local=self.local_blocks,
            stride=self.stride,
            dense_heads=self.dense_heads,
            first_head=first_head,
            heads_per_key=1 if shape.latent is not None else shape.heads // shape.kv_heads,
        )

    def saved_flops(self, shape: Shape, seq_len: int) -> int:
        """Of model FLOPs of a sequence, forward and backward, beside dense attention."""
        sizes = (shape.heads, seq_len, shape.head_dim, shape.value_dim)
        layers = sum(self.sparse(index) for index in range(shape.layers))
        return (1 + _BACKWARD) * layers * (dense_flops(*sizes) - self.pattern(shape).forward_flops(*sizes))

    def problems(self, plan: Plan, *, compiles: bool) -> Iterator[Problem]:
        """What does not fit a plan or its model, or would not be sparse."""
        shape = read_shape(plan.model.config)
        groups = shape.heads // self.pattern(shape).heads_per_key
        if self.dense_heads >= groups:
            yield Problem("s2.dense_heads", self.dense_heads, f"of {groups} leaves none sparse", str(groups - 1))
        elif not self.pattern(shape).complete(groups):
            rule = f"is more than the {groups} key-value heads: no head would see some blocks"
            yield Problem("s2.stride", self.stride, rule, f"{groups}, or s2.dense_heads=1")
        if self.local_blocks * self.block >= plan.job.seq_len:
            rule = f"blocks of {self.block} are all of a sequence of {plan.job.seq_len}: nothing would be sparse"
            most = (plan.job.seq_len - 1) // self.block
            yield Problem("s2.local_blocks", self.local_blocks, rule, str(most) if most else "a smaller s2.block")
        if self.dense_every == 1:
            yield Problem("s2.dense_every", 1, "makes every layer dense", "0 or 2")
        yield from _unsupported(plan, shape, compiles)


def _unsupported(plan: Plan, shape: Shape, compiles: bool) -> Iterator[Problem]:
    reasons = {
        "context parallelism reads tiles of the whole sequence": (plan.mesh.cp > 1, "a plan with cp=1"),
        "groups of several degrees read sequences in parts": (plan.mix is not None, "a plan without lengths"),
        "the model's layers have windows of their own": (any(shape.windows), "attention=dense"),
        "scores of this model are capped": (shape.score_softcap is not None, "attention=dense"),
        "masks are not compiled into layers": (compiles, "compile=false"),
    }
    for rule, (holds, nearest) in reasons.items():
        if holds:
            yield Problem("attention", "s2", rule, nearest)
