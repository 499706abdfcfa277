"""Which collectives a layer needs under a sharding, and how much of them the layer's own compute cannot hide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...clusters.topology import GroupPaths
from ..frameworks.framework import Experts
from ..model import Attention, Layer, Moe
from .communication import all_gather_s, all_reduce_s, reduce_scatter_s
from .compute import ELEMENTWISE_BACKWARD, Compute, routed_launches_s, routed_s
from .context import Exposed, Links, blocks_of, exposed
from .dispatch import CHOICE_BYTES, Visits, arriving, balanced, dispatch_s, imbalance, transfers_s
from .overlap import Parts, exposed_s
from .rates import Rates
from .sharding import Sharding

EXCHANGED_BYTES = 12
"""Of a token, from each rank: the sum of exponentials, the largest logit and the target's, in fp32."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Paths of the groups that a layer communicates in."""

    tp: GroupPaths
    cp: Links
    ep: GroupPaths
    etp: GroupPaths
    visits: Visits | None = None  # what a trace of routing says of ep; None: routing is balanced


@dataclass(frozen=True, slots=True)
class Exchange:
    """Exposed seconds of communication of one layer (or end block) on one microbatch, by cause."""

    tp_forward_s: float = 0.0
    tp_backward_s: float = 0.0
    cp_forward_s: float = 0.0
    cp_backward_s: float = 0.0
    ep_forward_s: float = 0.0
    ep_backward_s: float = 0.0
    cp_again_s: float = 0.0  # where a layer is recomputed and its attention kept

    @property
    def forward_s(self) -> float:
        return self.tp_forward_s + self.cp_forward_s + self.ep_forward_s

    @property
    def backward_s(self) -> float:
        return self.tp_backward_s + self.cp_backward_s + self.ep_backward_s


def layer_exchange(
    layer: Layer,
    sharding: Sharding,
    seq_len: int,
    rates: Rates,
    groups: Groups,
    compute: Compute,
    hides: bool = True,
) -> Exchange:
    """Communication of one layer. Tensor- and expert-parallel collectives are exposed: their neighbours in the
    layer need the result, unless another microbatch, or another part of it, computes beside the latter, where links
    work beside compute (`hides`). The ring of context parallelism runs beside attention."""
    element_bytes = rates.element_bytes
    activation = sharding.tokens(seq_len) * layer.hidden * element_bytes
    tp = region_s(groups.tp, activation, sharding.sp) * _tp_regions(layer)
    ep = ep_backward = 0.0
    if isinstance(layer.ffn, Moe) and rates.routing.planned:
        tokens = sharding.tokens(seq_len) / sharding.sequence_split
        parts = _parts(layer, layer.ffn, tokens, sharding, groups, element_bytes)
        ep, ep_backward = (exposed_s(parts, each_s, rates.steal, hides) for each_s in compute.experts_s)
    elif isinstance(layer.ffn, Moe):
        skew = imbalance(layer.ffn, sharding.ep, rates.routing.spread)
        ep = skew * rates.dispatch * _experts_s(layer.ffn, activation, sharding, groups, rates.routing)
        if rates.routing.overlaps:
            ep = max(0.0, ep - (compute.forward_s + compute.backward_s) / 2)
        ep_backward = ep
    cp = _context(layer.attention, sharding, seq_len, element_bytes, groups.cp, compute)
    return Exchange(tp, tp, cp.forward_s, cp.backward_s, ep, ep_backward, cp_again_s=cp.again_s)


def region_s(tp: GroupPaths, activation_bytes: float, sp: bool) -> float:
    """One tensor-parallel region, forward or backward: an all-reduce, or with sequence parallelism an all-gather
    and a reduce-scatter of the same volume (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2). The extra
    all-gather of its backward runs beside the matmul that needs it and is not counted."""
    if sp:
        return all_gather_s(tp, activation_bytes) + reduce_scatter_s(tp, activation_bytes)
    return all_reduce_s(tp, activation_bytes)


def _tp_regions(layer: Layer) -> int:
    """Attention and a dense feed-forward block are one each; routed experts are none, shared experts one."""
    moe = layer.moe
    return 2 if moe is None or moe.shared is not None else 1


def _experts_s(moe: Moe, activation_bytes: float, sharding: Sharding, groups: Groups, routing: Experts) -> float:
    """Dispatch and combine, forward or backward; expert-tensor ranks gather what they compute together."""
    own = activation_bytes / sharding.sequence_split
    gathered = own * moe.top_k * sharding.etp
    beside = all_gather_s(groups.etp, gathered) + reduce_scatter_s(groups.etp, gathered)
    return 2 * dispatch_s(moe, groups.ep, own, routing.dispatch) + beside


def experts_s(
    layer: Layer, sharding: Sharding, seq_len: int, rates: Rates, groups: Groups, hides: bool
) -> tuple[float, float]:
    """Seconds of a layer's routed experts with their dispatch, forward and backward: all of its time that depends on
    how tokens are sent."""
    forward, backward = (
        products + launches + exposed_s(parts, products, rates.steal, hides)
        for products, launches, parts in _routed(layer, sharding, seq_len, rates, groups)
    )
    return forward, backward


def least_s(
    layer: Layer, sharding: Sharding, seq_len: int, rates: Rates, groups: Groups, hides: bool
) -> tuple[float, float]:
    """No more than `experts_s` in any number of parts, of a sharding with one part: products of a part are no faster,
    and each link is busy as long."""
    if not hides:
        return experts_s(layer, sharding, seq_len, rates, groups, hides)
    forward, backward = (
        max(products, 2 * parts.between_s, parts.inside_s + parts.back_s) + launches
        for products, launches, parts in _routed(layer, sharding, seq_len, rates, groups)
    )
    return forward, backward


def _routed(
    layer: Layer, sharding: Sharding, seq_len: int, rates: Rates, groups: Groups
) -> Iterator[tuple[float, float, Parts]]:
    """Forward, then backward: seconds of the products and of the launches of routed experts, and what is sent for
    them, which is the same both ways."""
    assert isinstance(layer.ffn, Moe)
    load = groups.visits.load if groups.visits else 1.0
    tokens = sharding.tokens(seq_len) / sharding.sequence_split
    parts = _parts(layer, layer.ffn, tokens, sharding, groups, rates.element_bytes)
    forward, backward = routed_s(layer, sharding, seq_len, rates)
    launches = routed_launches_s(sharding, rates)
    yield load * forward, launches, parts
    yield load * backward, ELEMENTWISE_BACKWARD * launches, parts


def _parts(layer: Layer, moe: Moe, tokens: float, sharding: Sharding, groups: Groups, element_bytes: int) -> Parts:
    """Dispatch of the parts of a microbatch, `tokens` of a rank, as the plan has it. Expert-tensor ranks gather what
    they compute together after the transfer, and scatter sums before the way back."""
    visits = groups.visits or balanced(moe, groups.ep)
    row, each = layer.hidden * element_bytes, tokens / sharding.dispatch_chunks
    beside = 0 if sharding.dispatch == "copies" else CHOICE_BYTES * moe.top_k / 2  # the mean of there and back
    between_s, inside_s = transfers_s(moe, groups.ep, each * (row + beside), sharding.dispatch, visits)
    gathered = each * row * arriving(moe, groups.ep, sharding.dispatch, visits) * sharding.etp
    there, back = all_gather_s(groups.etp, gathered), reduce_scatter_s(groups.etp, gathered)
    return Parts(sharding.dispatch_chunks, between_s, inside_s + there, inside_s + back)


def _context(
    attention: Attention, sharding: Sharding, seq_len: int, element_bytes: int, links: Links, compute: Compute
) -> Exposed:
    if sharding.cp == 1:
        return Exposed()
    blocks = blocks_of(attention, sharding, seq_len, element_bytes)
    beside = compute.attention_forward_s, compute.attention_backward_s
    return exposed(sharding.cp_algorithm, blocks, links, beside)
