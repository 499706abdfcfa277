"""What one device holds of every parameter, and of the logits.

Bytes of a parameter. In bf16/fp16 the recipe is that of mixed precision with fp32 accumulation: a 16-bit weight (2),
an fp32 gradient (4), and the optimizer's fp32 master weight, momentum and variance (12): 18 bytes, of which ZeRO
shards the last 12 (stage 1), the gradient (2) and the weight (3) (Rajbhandari et al. 2020, arXiv:1910.02054; Megatron's
distributed optimizer). FSDP2 with fp32 shards, bf16 compute copies and fp32 reduction holds the same bytes.
In fp32: weight 4, gradient 4, states 8; the shard that FSDP2 keeps beside the gathered weight adds 4 at ZeRO 1 and 2.
A framework may accumulate in 16 bits or keep fp8 weights alone: `recipe_of` reads its `Keeps`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..frameworks.framework import Keeps
from ..job import Precision
from ..model import Attention, Layer, Mlp
from ..optimizer import States
from .declared import STATE_BYTES
from .projected import Projected
from .sharding import Sharding


@dataclass(frozen=True, slots=True)
class Recipe:
    """Bytes of a parameter, by use."""

    weight: int
    gradient: int
    states: int  # of the optimizer, with the master weight where there is one
    kept_shard: int = 0  # a second copy of the owned shard, where ZeRO 1 or 2 gather the weights


RECIPES: dict[Precision, Recipe] = {
    "bf16": Recipe(2, 4, 12),
    "fp16": Recipe(2, 4, 12),
    "fp8": Recipe(3, 4, 12),  # an 8-bit copy of the weight beside the 16-bit one
    "fp32": Recipe(4, 4, 8, 4),
}


MOMENTS = 2
"""Of AdamW, in the precision of the states."""


def recipe_of(precision: Precision, keeps: Keeps, zero: int = 0, states: States = "fp32") -> Recipe:
    """Bytes of a parameter as a framework holds them."""
    recipe = _recipe_of(precision, keeps, zero)
    less = MOMENTS * (STATE_BYTES["fp32"] - STATE_BYTES[states])
    return replace(recipe, states=recipe.states - less) if less else recipe


def _recipe_of(precision: Precision, keeps: Keeps, zero: int) -> Recipe:
    recipe = RECIPES[precision]
    if precision == "fp32":
        return recipe
    if zero == 3 and keeps.shards_fp32:
        return Recipe(4, 4, 8)
    weight = keeps.fp8_weight_bytes if precision == "fp8" else recipe.weight
    return replace(recipe, weight=weight, gradient=keeps.gradient_bytes)


@dataclass(frozen=True, slots=True)
class Held:
    """Parameters of one layer (or end block) on one rank: `dense` is sharded over dp x cp, `expert` over edp. Some of
    the dense ones are `projected`, where that is the optimizer."""

    dense: float
    expert: float = 0.0
    projected: Projected | None = None

    def __add__(self, other: Held) -> Held:
        both = self.projected or other.projected
        if both is not None and self.projected is not None and other.projected is not None:
            both = self.projected + other.projected
        return Held(self.dense + other.dense, self.expert + other.expert, both)

    def __sub__(self, other: Held) -> Held:
        less = self.projected
        if less is not None and other.projected is not None:
            less = less - other.projected
        return Held(self.dense - other.dense, self.expert - other.expert, less)

    @property
    def total(self) -> float:
        return self.dense + self.expert


def layer_parameters(layer: Layer, sharding: Sharding) -> Held:
    """Parameters of one layer on one rank: matrices are split over tp, norms, biases and routers replicated."""
    hidden, ffn = layer.hidden, layer.ffn
    dense = _attention_parameters(layer.attention, hidden, sharding) + layer.norm_parameters
    if isinstance(ffn, Mlp):
        return Held(dense + ffn.matmul_parameters(hidden) / sharding.tp + ffn.other_parameters(hidden))
    shared = ffn.shared_parameters(hidden) / sharding.tp + ffn.router_parameters(hidden)
    copies = 1 + sharding.expert_replicas / ffn.experts
    return Held(dense + shared, copies * layer.expert_parameters / (sharding.ep * sharding.etp))


def _attention_parameters(attention: Attention, hidden: int, sharding: Sharding) -> float:
    other = attention.other_parameters(hidden)
    if attention.latent is not None:
        latent = attention.latent
        down = hidden * (latent.kv_rank + latent.rope_dim + (latent.q_rank or 0))
        return down + (attention.matmul_parameters(hidden) - down) / sharding.tp + other
    key_value = sharding.kv_heads(attention.kv_heads) * (attention.head_dim + attention.value_dim)
    return hidden * (key_value + (attention.query_width + attention.output_width) / sharding.tp) + other


def logits_bytes(vocab: int, sharding: Sharding, seq_len: int, each: int) -> float:
    """`each` bytes for every logit of one microbatch."""
    return each * sharding.tokens(seq_len) * vocab / sharding.vocabulary_split


def largest_gradient(layer: Layer, held: Held, sharding: Sharding) -> float:
    """Parameters of one buffer per shape of weight: all dense weights of a layer, and one of its experts."""
    slots = (layer.ffn.experts + sharding.expert_replicas) / sharding.ep if not isinstance(layer.ffn, Mlp) else 1.0
    return held.dense + held.expert / slots
