"""S2Recipe: which heads see what, where attention is head-wise sharded, `s2` of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Problem
from ..kernels.facts.sparse import Pattern, dense_flops
from ..planner.attention import S2
from ..planner.plan import Plan
from .blocks.shape import Shape, read_shape

_BACKWARD = 2  # times the FLOPs of the forward pass


class S2Recipe(S2):
    """S2-Attention (arXiv:2407.17678): every group of heads that share a key has a shard of the sequence."""

    def pattern(self, shape: Shape, first_head: int = 0) -> Pattern:
        """For heads of a model from `first_head` on."""
        return self.of_heads(1 if shape.latent is not None else shape.heads // shape.kv_heads, first_head)

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
            fix = f"{groups}, or s2.dense_heads=1" if groups > 1 else "attention=dense"
            yield Problem("s2.stride", self.stride, rule, fix)
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
