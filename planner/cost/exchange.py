"""Which collectives a layer needs under a sharding, and how much of them the layer's own compute cannot hide."""

from __future__ import annotations

from dataclasses import dataclass

from ...clusters.topology import GroupPaths
from ..frameworks.framework import Experts
from ..model import Attention, Layer, Moe
from .communication import all_gather_s, all_reduce_s, reduce_scatter_s
from .compute import Compute
from .context import Exposed, Links, blocks_of, exposed
from .dispatch import dispatch_s, imbalance
from .rates import Rates
from .sharding import Sharding


@dataclass(frozen=True, slots=True)
class Groups:
    """Paths of the groups that a layer communicates in."""

    tp: GroupPaths
    cp: Links
    ep: GroupPaths
    etp: GroupPaths


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
    layer: Layer, sharding: Sharding, seq_len: int, rates: Rates, groups: Groups, compute: Compute
) -> Exchange:
    """Communication of one layer. Tensor- and expert-parallel collectives are exposed: their neighbours in the
    layer need the result, unless another microbatch computes beside the latter. The ring of context parallelism runs
    beside attention."""
    element_bytes = rates.element_bytes
    activation = sharding.tokens(seq_len) * layer.hidden * element_bytes
    tp = region_s(groups.tp, activation, sharding.sp) * _tp_regions(layer)
    ep = 0.0
    if isinstance(layer.ffn, Moe):
        skew = imbalance(layer.ffn, sharding.ep, rates.routing.spread)
        ep = skew * rates.dispatch * _experts_s(layer.ffn, activation, sharding, groups, rates.routing)
        if rates.routing.overlaps:
            ep = max(0.0, ep - (compute.forward_s + compute.backward_s) / 2)
    cp = _context(layer.attention, sharding, seq_len, element_bytes, groups.cp, compute)
    return Exchange(tp, tp, cp.forward_s, cp.backward_s, ep, ep, cp_again_s=cp.again_s)


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


def _context(
    attention: Attention, sharding: Sharding, seq_len: int, element_bytes: int, links: Links, compute: Compute
) -> Exposed:
    if sharding.cp == 1:
        return Exposed()
    blocks = blocks_of(attention, sharding, seq_len, element_bytes)
    beside = compute.attention_forward_s, compute.attention_backward_s
    return exposed(sharding.cp_algorithm, blocks, links, beside)
