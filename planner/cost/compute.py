"""What the kernels of a layer cost on one device.

A matmul takes max(FLOPs / sustained rate at that size, bytes / memory bandwidth) plus a launch; element-wise
work takes its bytes over the sustained memory bandwidth plus launches. The backward pass of a matmul is two
matmuls of the same size. Fused attention keeps no score matrix: its backward computes five products where the
forward computes two (FlashAttention-2, arXiv:2307.08691, section 3.1). In fp8 the operands of the layers' matmuls are
cast first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..configuration import Module
from ..model import Attention, Latent, Layer, Mlp, Moe
from .core import core_s
from .declared import Declared, gated_bytes, layer_bytes, loss_bytes, norms_bytes
from .dispatch import imbalance
from .kernels import Matmul, elementwise_s, forward_s, products_s
from .passes import both_s, layer_passes_s, norms_s
from .products import each_in_parts_s, layer_products
from .rates import Rates
from .sharding import Sharding

ELEMENTWISE_BACKWARD = 2.0
"""Backward kernels read the saved input and the gradient and write a gradient: about twice the forward's bytes."""


@dataclass(frozen=True, slots=True)
class Compute:
    """Seconds of one layer (or end block) on one microbatch; `attention_*` is the core's share of the totals."""

    forward_s: float
    backward_s: float
    attention_forward_s: float = 0.0
    attention_backward_s: float = 0.0
    weight_s: float = 0.0  # of the backward, what a schedule that splits it can put off: gradients of weights
    experts_s: tuple[float, float] = (0.0, 0.0)  # products of routed experts, forward and backward, in the totals


def attention_matmuls(attention: Attention, hidden: int, sharding: Sharding, seq_len: int) -> list[Matmul]:
    """Projections of attention on one rank; heads are split over tp, latent down-projections are not."""
    tokens, heads = sharding.tokens(seq_len), attention.heads // sharding.tp
    output = Matmul(tokens, hidden, heads * attention.value_dim)
    query = heads * attention.head_dim
    if attention.latent is None:
        kv_heads = sharding.kv_heads(attention.kv_heads)
        qkv = query + kv_heads * (attention.head_dim + attention.value_dim)
        return [Matmul(tokens, qkv, hidden), output]
    return [*_latent_matmuls(attention.latent, attention.value_dim, hidden, sharding, seq_len, heads, query), output]


def _latent_matmuls(
    latent: Latent, value_dim: int, hidden: int, sharding: Sharding, seq_len: int, heads: int, query: int
) -> list[Matmul]:
    tokens = sharding.tokens(seq_len)
    shared = tokens / sharding.sequence_split  # replicated weights work on this rank's own tokens
    if latent.q_rank is None:
        queries = [Matmul(tokens, query, hidden)]
    else:
        queries = [Matmul(shared, latent.q_rank, hidden), Matmul(tokens, query, latent.q_rank)]
    down = Matmul(shared, latent.kv_rank + latent.rope_dim, hidden)
    return [*queries, down, Matmul(tokens, heads * (latent.nope_dim + value_dim), latent.kv_rank)]


def mlp_matmuls(mlp: Mlp, hidden: int, tokens: float, split: int, experts: float = 0) -> list[Matmul]:
    """The two products of a feed-forward block (gate and up run as one); `experts` > 0: grouped over so many."""
    width = mlp.width / split
    up = (2 if mlp.gated else 1) * width
    count, routed = (experts, True) if experts else (1, False)
    each = tokens / count
    return [Matmul(each, up, hidden, count, routed, routed), Matmul(each, hidden, width, count, routed, routed)]


def routed_tokens(moe: Moe, sharding: Sharding, seq_len: int) -> float:
    """Token copies that one rank's experts receive when routing is balanced (expected value)."""
    own = sharding.tokens(seq_len) / sharding.sequence_split
    return own * moe.top_k * sharding.etp


def layer_matmuls(layer: Layer, sharding: Sharding, seq_len: int) -> list[Matmul]:
    """Every matmul of one layer, forward."""
    tokens, hidden = sharding.tokens(seq_len), layer.hidden
    found = attention_matmuls(layer.attention, hidden, sharding, seq_len)
    if isinstance(layer.ffn, Mlp):
        return found + mlp_matmuls(layer.ffn, hidden, tokens, sharding.tp)
    moe = layer.ffn
    found.append(Matmul(tokens / sharding.sequence_split, moe.experts, hidden))
    if moe.shared:
        found += mlp_matmuls(moe.shared, hidden, tokens, sharding.tp)
    routed = routed_tokens(moe, sharding, seq_len)
    slots = (moe.experts + sharding.expert_replicas) / sharding.ep
    return found + mlp_matmuls(moe.expert, hidden, routed, sharding.etp, slots)


def routed_s(layer: Layer, sharding: Sharding, seq_len: int, rates: Rates) -> tuple[float, float]:
    """Products of a layer's routed experts on a rank with the mean load, forward and for both gradients."""
    moe = layer.ffn
    assert isinstance(moe, Moe)
    slots = (moe.experts + sharding.expert_replicas) / sharding.ep
    found = mlp_matmuls(moe.expert, layer.hidden, routed_tokens(moe, sharding, seq_len), sharding.etp, slots)
    times = [each_in_parts_s(rates, each, sharding.dispatch_chunks) for each in found]
    return sum(each[0] for each in times), sum(inputs + weights for _, inputs, weights in times)


def routed_launches_s(sharding: Sharding, rates: Rates) -> float:
    """Of the element-wise kernels around them: router, permutations, activation; each part has its own."""
    return ROUTED_KERNELS * sharding.dispatch_chunks * rates.launch_s


ROUTED_KERNELS = 6


def layer_elementwise_bytes(layer: Layer, sharding: Sharding, seq_len: int, element: int) -> float:
    """Bytes that norms, residuals, rotary positions, activations and token permutation move, forward."""
    tokens, attention = sharding.tokens(seq_len), layer.attention
    own = tokens / sharding.sequence_split
    elements = layer.norms * 2 * own * layer.hidden + 2 * 3 * own * layer.hidden
    rotated = attention.heads / sharding.tp + sharding.kv_heads(attention.kv_heads)
    elements += 2 * tokens * rotated * attention.head_dim * (2 if attention.qk_norm_parameters else 1)
    if isinstance(layer.ffn, Mlp):
        return element * (elements + _activation(layer.ffn, tokens / sharding.tp))
    moe, routed = layer.ffn, routed_tokens(layer.ffn, sharding, seq_len)
    elements += _activation(moe.expert, routed / sharding.etp) + 2 * 2 * routed * layer.hidden
    if moe.shared:
        elements += _activation(moe.shared, tokens / sharding.tp)
    biased = BIASED_EXPERTS_BYTES / (1 + ELEMENTWISE_BACKWARD) * routed * layer.hidden if moe.expert.bias else 0.0
    return element * elements + 3 * 4 * own * moe.experts + biased  # the router's softmax is in fp32


BIASED_EXPERTS_BYTES = 28 + 40
"""Per element of the experts' outputs, forward and backward, where experts have biases: Megatron-Core (TEGroupedMLP)
adds bias times probability expert by expert in fp32. Forward: the product is written (4), added (10), concatenated (8)
and cast (6); backward: casts (12), a product and its sum for each factor (24), and the parts joined (4)."""


def _activation(mlp: Mlp, tokens: float) -> float:
    return tokens * mlp.width * (3 if mlp.gated else 2)


def layer_compute(layer: Layer, sharding: Sharding, seq_len: int, rates: Rates, load: float | None = None) -> Compute:
    """One layer on one microbatch, recomputation not included; `load` is that of the busiest ep rank over the mean,
    where a trace says it."""
    found = layer_matmuls(layer, sharding, seq_len)
    if load is None:
        load = imbalance(layer.ffn, sharding.ep, rates.routing.spread) if isinstance(layer.ffn, Moe) else 1.0
    products = layer_products(rates, found, sharding.dispatch_chunks, load)
    forward, backward = _elementwise_s(layer, sharding, seq_len, rates)
    core, core_backward = core_s(layer.attention, sharding, seq_len, rates)
    cast, cast_backward = _casts_s(rates, found)
    return Compute(
        forward_s=products.forward_s + forward + core + cast,
        backward_s=products.backward_s + backward + core_backward + cast_backward,
        attention_forward_s=core,
        attention_backward_s=core_backward,
        weight_s=products.weight_s,
        experts_s=(products.routed_forward_s, products.routed_backward_s),
    )


def _elementwise_s(layer: Layer, sharding: Sharding, seq_len: int, rates: Rates) -> tuple[float, float]:
    """Forward and backward of all that is no product and not the core of attention."""
    moved = layer_elementwise_bytes(layer, sharding, seq_len, rates.element_bytes)
    kernels = layer.norms + 4 + (ROUTED_KERNELS * sharding.dispatch_chunks if layer.moe else 0)
    if (declared := _declared(rates)) is not None:
        found = layer_bytes(layer, sharding, seq_len, declared)
        rest = elementwise_s(rates, moved - found.counted * rates.element_bytes, kernels)
        forward, backward = (each / rates.declared_bytes_per_s for each in (found.forward, found.backward))
        return rest + forward, ELEMENTWISE_BACKWARD * rest + backward
    passes = layer_passes_s(layer, sharding, seq_len, rates)
    rest = elementwise_s(rates, moved - passes.priced_bytes, kernels - passes.kernels)
    return rest + passes.forward_s, ELEMENTWISE_BACKWARD * rest + passes.backward_s


def _declared(rates: Rates) -> Declared | None:
    """Kernels whose bytes are declared, where none were measured by shape."""
    return rates.declared if (rates.sixteen_bit or rates).times is None else None


def _casts_s(rates: Rates, matmuls: list[Matmul]) -> tuple[float, float]:
    """Casts of the inputs forward and of the output gradients backward; weights are cast once a step."""
    if rates.sixteen_bit is None:
        return 0.0, 0.0
    inputs = sum(each.count * each.m * each.k for each in matmuls)
    outputs = sum(each.count * each.m * each.n for each in matmuls)
    launched = len(matmuls)
    each = rates.cast_bytes
    return elementwise_s(rates, each * inputs, launched), elementwise_s(rates, each * outputs, launched)


def accumulated(compute: Compute, rates: Rates, parameters: float, put_off: float = 0.0) -> Compute:
    """With the gradients of so many parameters added to those of earlier microbatches; of some when they are made,
    where that is put off."""
    each = rates.accumulate_bytes / rates.bandwidth_bytes_per_s
    later = compute.weight_s + put_off * each
    return replace(compute, backward_s=compute.backward_s + parameters * each, weight_s=later)


def put_off_bytes(layer: Layer, sharding: Sharding, seq_len: int, element: int) -> float:
    """What waits for the gradients of a layer's weights: inputs and output gradients of its products, whole
    sequences."""
    found = (each for each in layer_matmuls(layer, sharding, seq_len) if not each.routed)
    return element * sum(each.count * each.m * (each.k + each.n) for each in found)


def module_s(layer: Layer, sharding: Sharding, seq_len: int, rates: Rates, module: Module) -> float:
    """Forward seconds of one module of a layer, repeated when it is recomputed."""
    tokens, hidden, ffn = sharding.tokens(seq_len), layer.hidden, layer.ffn
    own = tokens / sharding.sequence_split
    if module == "core_attn":
        return core_s(layer.attention, sharding, seq_len, rates)[0]
    if module == "layernorm":
        found = norms_s(rates, own, hidden, layer.norms)
        if found is not None:
            return found[0]
        if (declared := _declared(rates)) is not None:
            moved = norms_bytes(layer, sharding, seq_len, declared).forward
            return moved / rates.declared_bytes_per_s + layer.norms * rates.launch_s
        return elementwise_s(rates, layer.norms * 2 * own * hidden * rates.element_bytes, layer.norms)
    if module == "mla_up_proj":
        return _up_projections_s(layer, sharding, seq_len, rates)
    if isinstance(ffn, Mlp):
        return _block_s(rates, ffn, hidden, tokens, sharding.tp) if module == "mlp" else 0.0
    routed = routed_tokens(ffn, sharding, seq_len)
    if module == "moe_act":
        return _activation_s(rates, ffn.expert, routed, sharding.etp)
    return (
        _block_s(rates, ffn.expert, hidden, routed, sharding.etp, ffn.experts / sharding.ep) if module == "moe" else 0.0
    )


def _up_projections_s(layer: Layer, sharding: Sharding, seq_len: int, rates: Rates) -> float:
    """Queries, and keys and values, from their latents (queries without one from the hidden states), as Megatron-Core
    repeats them; latents stay."""
    if layer.attention.latent is None:
        return 0.0
    *_, queries, _, keys_and_values, _ = attention_matmuls(layer.attention, layer.hidden, sharding, seq_len)
    return forward_s(rates, queries) + forward_s(rates, keys_and_values)


def _block_s(rates: Rates, mlp: Mlp, hidden: int, tokens: float, split: int, experts: float = 0) -> float:
    matmuls = sum(forward_s(rates, each) for each in mlp_matmuls(mlp, hidden, tokens, split, experts))
    return matmuls + _activation_s(rates, mlp, tokens, split)


def _activation_s(rates: Rates, mlp: Mlp, tokens: float, split: int) -> float:
    """Forward."""
    if mlp.gated and (declared := _declared(rates)) is not None:
        return gated_bytes(tokens, mlp.width / split, declared).forward / rates.declared_bytes_per_s + rates.launch_s
    return elementwise_s(rates, _activation(mlp, tokens / split) * rates.element_bytes, 1)


def embedding_compute(hidden: int, sharding: Sharding, seq_len: int, rates: Rates, rows: float = 0.0) -> Compute:
    """Look-up among so many rows, and the scatter of their fp32 gradients."""
    tokens = sharding.tokens(seq_len)
    measured = both_s(rates, "embedding", tokens, hidden, rows) if rows else None
    if measured is not None:
        return Compute(*measured)
    elements = tokens * hidden
    forward = elementwise_s(rates, 2 * elements * rates.element_bytes, 2)
    return Compute(forward, elementwise_s(rates, elements * (rates.element_bytes + 8), 1))


def head_projection_s(hidden: int, vocab: int, sharding: Sharding, seq_len: int, rates: Rates) -> float:
    """The logits of a microbatch from its hidden states."""
    return _projection_s(hidden, vocab, sharding, seq_len, rates)[0]


def _projection_s(
    hidden: int, vocab: int, sharding: Sharding, seq_len: int, rates: Rates
) -> tuple[float, float, float]:
    matmul = Matmul(sharding.tokens(seq_len), vocab / sharding.vocabulary_split, hidden)
    return products_s(rates.sixteen_bit or rates, matmul)


def norm_s(hidden: int, sharding: Sharding, seq_len: int, rates: Rates) -> float:
    """The final norm, forward."""
    return _norm_s(hidden, sharding, seq_len, rates)[0]


def _norm_s(hidden: int, sharding: Sharding, seq_len: int, rates: Rates) -> tuple[float, float]:
    own = sharding.tokens(seq_len) / sharding.sequence_split
    measured = norms_s(rates, own, hidden, 1)
    if measured is not None:
        return measured
    forward = elementwise_s(rates, 2 * own * hidden * rates.element_bytes, 1)
    return forward, 2 * forward


CROSS_ENTROPY_BYTES = (18, 6)
"""Bytes per logit: forward reads it in 16 bits, writes fp32, reads that twice and writes the softmax once;
backward reads the softmax and writes a 16-bit gradient. In fp32 the same passes are counted."""


def head_compute(hidden: int, vocab: int, sharding: Sharding, seq_len: int, rates: Rates, further: int = 0) -> Compute:
    """Final norm, output projection and cross-entropy, the vocabulary split over tp. Each `further` token that is
    predicted takes them once more, after a projection of two hidden states to one (DeepSeek-V3, arXiv:2412.19437,
    section 2.2); its layer is one of the model's."""
    tokens = sharding.tokens(seq_len)
    matmul, inputs, weights = _projection_s(hidden, vocab, sharding, seq_len, rates)
    norm, norm_back = _norm_s(hidden, sharding, seq_len, rates)
    forward, backward = _loss_s(tokens, vocab / sharding.vocabulary_split, hidden, sharding, rates)
    own = Compute(matmul + norm + forward, inputs + weights + norm_back + backward)
    if not further:
        return own
    join, join_inputs, join_weights = products_s(rates, Matmul(tokens, hidden / sharding.tp, 2 * hidden))
    times, joined = 1 + further, join_inputs + join_weights
    return Compute(times * own.forward_s + further * join, times * own.backward_s + further * joined)


def _loss_s(tokens: float, columns: float, hidden: int, split: Sharding, rates: Rates) -> tuple[float, float]:
    """Cross-entropy over so many columns, forward and backward."""
    measured = both_s(rates, "loss", tokens, columns)
    if measured is not None:
        return measured
    if (declared := _declared(rates)) is not None:
        both = (each / rates.declared_bytes_per_s for each in loss_bytes(tokens, columns, hidden, split, declared))
        forward, backward = (each + rates.launch_s for each in both)
        return forward, backward
    forward, backward = (elementwise_s(rates, each * tokens * columns, 3) for each in CROSS_ENTROPY_BYTES)
    return forward, backward
