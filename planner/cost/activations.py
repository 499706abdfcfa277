"""What one layer keeps for its backward, module by module, so that recomputation can give up any of them.

Korthikanti et al. 2022 (arXiv:2205.05198, equations 1 to 4) extended by grouped queries, latent attention, gated
activations and experts; what a framework keeps beyond or below them is said by its `Keeps`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..configuration import Module
from ..frameworks.framework import Keeps
from ..model import Layer, Mlp, Moe
from ..optimizer import GaLore
from ..sequence import copies
from .context import blocks_of, passing_bytes
from .declared import Declared, norm_name
from .scores import are_held, held_bytes
from .sharding import Sharding


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Bytes of one layer and microbatch by the module that keeps them."""

    residual: float  # inputs of the norms, dropout masks
    norm_copies: float  # what norms of separate kernels keep beside their input
    norm_outputs: float
    projected: float  # queries, keys, values
    latents: float
    core: float  # scores, their masks, log-sum-exp
    attention_output: float
    mlp: float  # inside a dense feed-forward block or the shared experts
    routed_inputs: float
    expert_hidden: float  # before the activation
    expert_activated: float
    router: float

    @property
    def total(self) -> float:
        attention = self.projected + self.latents + self.core + self.attention_output
        return self.residual + self.norm_copies + self.norm_outputs + attention + self.mlp + self.moe

    @property
    def moe(self) -> float:
        return self.routed_inputs + self.expert_hidden + self.expert_activated + self.router

    def given_up(self, modules: Collection[Module]) -> float:
        """Bytes that recomputing these modules saves."""
        saved = {
            "core_attn": self.core,
            "layernorm": self.norm_copies + self.norm_outputs,
            "mlp": self.mlp,
            "mla_up_proj": self.projected if self.latents else 0.0,
            "moe": self.moe,
            "moe_act": 0.0 if "moe" in modules else self.expert_activated,
        }
        return sum(saved[module] for module in set(modules))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One microbatch on one rank, and the bytes of its elements: `inputs` those kept for a product's weights."""

    sharding: Sharding
    seq_len: int
    element: int
    keeps: Keeps
    fp8: bool = False
    on_cpu: bool = True
    load: float = 1.0  # rows of the busiest ep rank over the mean, where a trace says it
    declared: Declared | None = None  # kernels that run, where their declarations say what they keep
    galore: GaLore | None = None  # where that is the optimizer

    @property
    def tokens(self) -> float:
        return self.sharding.tokens(self.seq_len)

    @property
    def own(self) -> float:
        """Tokens outside of tensor-parallel regions."""
        return self.tokens / self.sharding.sequence_split

    @property
    def keeps_attention(self) -> bool:
        """Whether full recomputation keeps what attention found."""
        return self.keeps.attention and self.sharding.cp > 1

    @property
    def inputs(self) -> int:
        return 1 if self.fp8 and self.keeps.fp8_inputs else self.element


def layer_kept(layer: Layer, shape: Shape) -> Kept:
    """Everything that a layer keeps when nothing is recomputed."""
    keeps, own, hidden = shape.keeps, shape.own, layer.hidden
    masks = 2 * own * hidden if keeps.dropout else 0.0
    gathered = shape.tokens if keeps.gathered_inputs else own
    kept = {
        "residual": layer.norms * own * hidden * shape.element + masks,
        "norm_copies": layer.norms * own * _norm_copies(layer, shape),
        "norm_outputs": layer.norms * gathered * hidden * shape.inputs,
        **_attention(layer, shape),
    }
    return Kept(**kept, **_feed_forward(layer, shape))


def _norm_copies(layer: Layer, shape: Shape) -> float:
    """Bytes that a norm keeps of a token beside its input in the precision of activations."""
    if shape.declared is None:
        return 4.0 * layer.hidden if shape.keeps.eager_norms else 0.0
    return shape.declared.kept(norm_name(layer), rows=1, width=layer.hidden) - shape.element * layer.hidden


def _gated_copies(shape: Shape) -> float:
    """Widths that a gated activation keeps, its result among them, as what goes into the product after it."""
    if shape.declared is None:
        return shape.keeps.gated_copies
    return 1 + shape.declared.kept("swiglu", rows=1, width=1) / shape.element


def _routed_copies(hidden: int, shape: Shape) -> float:
    """Copies of a routed token that are kept: what went into the experts, and what they gave where that is weighted."""
    if shape.declared is None:
        return shape.keeps.routed_copies
    sizes = {"tokens": 1.0, "choices": 1.0, "experts": 1.0, "width": hidden}
    return 1 + shape.declared.kept("unpermute", **sizes) / (shape.element * hidden)


def _attention(layer: Layer, shape: Shape) -> dict[str, float]:
    """Fused attention keeps its output (again in fp8 for the projection) and a log-sum-exp; unfused, the softmax of
    s^2 scores, and with dropout their mask and what is left of them: 5 a s^2 b bytes (Korthikanti, equation 1)."""
    attention, sharding, tokens = layer.attention, shape.sharding, shape.tokens
    heads = attention.heads / sharding.tp
    key_value = sharding.kv_heads(attention.kv_heads) * (attention.head_dim + attention.value_dim)
    if sharding.cp_heads > 1:
        key_value *= copies(attention.heads // sharding.tp, sharding.kv_heads(attention.kv_heads), sharding.cp_heads)
    projected = tokens * (heads * attention.head_dim + key_value) * (2 if attention.qk_norm_parameters else 1)
    latents = 0.0
    if attention.latent is not None:
        latent = attention.latent
        latents = 2 * shape.own * (latent.kv_rank + latent.rope_dim + (latent.q_rank or 0)) * shape.element
    core = 4 * tokens * heads
    if shape.keeps.scores:
        core = tokens * heads * shape.seq_len * (5 if shape.keeps.dropout else 2)
    output = tokens * heads * attention.value_dim * (shape.element + (1 if shape.inputs == 1 else 0))
    return {
        "projected": projected * shape.element,
        "latents": latents,
        "core": core,
        "attention_output": output,
    }


def _feed_forward(layer: Layer, shape: Shape) -> dict[str, float]:
    ffn, tokens = layer.ffn, shape.tokens / shape.sharding.tp
    if isinstance(ffn, Mlp):
        none = dict.fromkeys(("routed_inputs", "expert_hidden", "expert_activated", "router"), 0.0)
        return {"mlp": sum(_mlp(ffn, tokens, shape)), **none}
    return _experts(ffn, layer.hidden, shape)


def _mlp(mlp: Mlp, tokens: float, shape: Shape) -> tuple[float, float]:
    """Bytes before the activation function and after it."""
    before = (_gated_copies(shape) - 1 if mlp.gated else 1) * shape.element
    return tokens * mlp.width * before, tokens * mlp.width * shape.inputs


def _experts(moe: Moe, hidden: int, shape: Shape) -> dict[str, float]:
    """Each routed token before the experts, inside them, and its logits and weights in fp32."""
    routed = routed_tokens(moe, shape)
    before, after = _mlp(moe.expert, routed / shape.sharding.etp, shape)
    shared = sum(_mlp(moe.shared, shape.tokens / shape.sharding.tp, shape)) if moe.shared else 0.0
    inputs = shape.inputs + (_routed_copies(hidden, shape) - 1) * shape.element
    return {
        "mlp": shared,
        "routed_inputs": routed * hidden * inputs,
        "expert_hidden": before,
        "expert_activated": after,
        "router": 2 * 4 * shape.own * moe.experts,
    }


def routed_tokens(moe: Moe, shape: Shape) -> float:
    """Tokens that the experts of one rank receive, when all of them receive equally many; of the busiest by a trace."""
    return shape.own * moe.top_k * shape.sharding.etp * shape.load


def worst_routing_bytes(layer: Layer, shape: Shape) -> float:
    """Beyond the expected bytes: every token of the expert-parallel group visits the experts of one rank, as far as
    these have as many as a token visits."""
    if not isinstance(layer.ffn, Moe):
        return 0.0
    kept, ep = layer_kept(layer, shape), shape.sharding.ep
    local = min(layer.ffn.top_k, layer.ffn.experts // ep)
    times = ep * local / layer.ffn.top_k
    return (times - 1) * (kept.routed_inputs + kept.expert_hidden + kept.expert_activated)


def layer_input_bytes(layer: Layer, shape: Shape) -> float:
    """What full recomputation keeps of a layer on the device."""
    if shape.keeps.checkpoints_on_host:
        return 0.0
    kept = layer_kept(layer, shape)
    attention = kept.core + kept.attention_output if shape.keeps_attention else 0.0
    return shape.own * layer.hidden * shape.element + attention


def transient_bytes(layer: Layer, shape: Shape) -> float:
    """What stands beside the saved activations while a layer goes backward: through its feed-forward block, or later
    through an attention that passes blocks between ranks or holds scores, when what the feed-forward block kept is
    freed."""
    attention, sharding = layer.attention, shape.sharding
    inside = 0.0
    if shape.keeps.score_blocks and are_held(attention, sharding, on_cpu=shape.on_cpu, fp32=shape.element == 4):
        inside = held_bytes(attention, sharding, shape.seq_len)
    if sharding.cp > 1:
        blocks = blocks_of(attention, sharding, shape.seq_len, shape.element)
        inside += passing_bytes(sharding.cp_algorithm, blocks)
    feed_forward = _feed_forward_transient(layer, shape)
    if not inside:
        return feed_forward
    kept = layer_kept(layer, shape)
    return max(feed_forward, inside - kept.mlp - kept.moe)


def _feed_forward_transient(layer: Layer, shape: Shape) -> float:
    """Gradients that stand beside the saved activations while the feed-forward block goes backward: of its output
    (gathered, with sequence parallelism), and of both halves of a gated block. What went into the last product is
    freed by then, so that a kernel for gate and product adds two widths, separate ones three."""
    sharding = shape.sharding
    if isinstance(layer.ffn, Mlp):
        widths = _gradient_widths(layer.ffn, shape) * shape.tokens / sharding.tp
        return shape.element * ((shape.own + shape.tokens * sharding.sp) * layer.hidden + widths)
    routed = routed_tokens(layer.ffn, shape)
    widths = _gradient_widths(layer.ffn.expert, shape) * routed / sharding.etp
    return shape.element * (2 * routed * layer.hidden + widths)


def _gradient_widths(mlp: Mlp, shape: Shape) -> float:
    return mlp.width * (_gated_copies(shape) - 1 if mlp.gated else 1)
