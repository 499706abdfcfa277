"""Prices: what a layer's experts and their dispatch take, for a given placement.

Every rank is the home of as many tokens as any other, whatever experts they choose; each token's result returns to it.
A microbatch is `tokens_per_rank` tokens of each rank. The predicted time is that of the busiest rank's experts,
forward and backward, and of four transfers at the pace of the busiest link: dispatch and combine, each there and in
the backward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...clusters.topology import GroupPaths
from ..configuration import Dispatch
from ..cost.dispatch import hops_s
from ..model import Layer
from .layout import Layout
from .trace import Floats

_TRANSFERS = 4  # dispatch and combine, forward and backward
_PASSES = 3  # forward, and the gradients of inputs and of weights


@dataclass(frozen=True, slots=True)
class Prices:
    """Seconds of one layer, forward and backward. Defaults: DeepSeek-V3's experts (7,168 x 2,048, bf16) on the bundled
    dgx-h100, 72 % of 989.4 TFLOP/s, NVLink at 292.5 GB/s and 40 GB/s of InfiniBand a rank."""

    expert_s: float = _PASSES * 6 * 7168 * 2048 / (0.72 * 989.4e12)  # one token in one expert
    inner_s: float = _TRANSFERS * 2 * 7168 / 292.5e9  # one copy into a rank from its own node, all transfers
    outer_s: float = _TRANSFERS * 2 * 7168 / 40e9  # the same from another node
    latency_s: float = _TRANSFERS * 3.7e-6  # of all transfers
    tokens_per_rank: int = 4096
    dispatch: Dispatch = "nodes"
    turns: bool = False  # "nodes" pass on when all has arrived (cost/dispatch.py: in_turn), not while it arrives

    @classmethod
    def of(
        cls,
        layer: Layer,
        group: GroupPaths,
        flops: float,
        element_bytes: int,
        tokens_per_rank: int,
        dispatch: Dispatch = "nodes",
        turns: bool = False,
    ) -> Prices:
        """Of a model's layer on the links of an expert-parallel group; `flops` is what a grouped product sustains."""
        if layer.moe is None:
            raise ValueError("the layer has no experts")
        each = _TRANSFERS * layer.hidden * element_bytes
        inner = each / group.inner.bandwidth_bytes_per_s if group.inner else 0.0
        outer = each / group.outer.bandwidth_bytes_per_s if group.outer else 0.0
        inner_latency, outer_latency = (path.latency_s if path else 0.0 for path in (group.inner, group.outer))
        latency = hops_s(outer_latency, inner_latency, turns)
        one = _PASSES * 2 * layer.moe.expert.matmul_parameters(layer.hidden) / flops
        return cls(one, inner, outer, _TRANSFERS * latency, tokens_per_rank, dispatch, turns)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one window, a token: rows of experts and visits of ranks [ranks], visits of nodes [nodes]."""

    load: Floats
    ranks: Floats
    nodes: Floats


def layer_time_s(traffic: Traffic, layout: Layout, prices: Prices) -> float:
    """Seconds of one microbatch."""
    tokens = prices.tokens_per_rank * layout.ranks
    compute = prices.expert_s * float(np.max(traffic.load))
    return tokens * (compute + exchange_s(traffic, layout, prices)) + latency_s(layout, prices)


def latency_s(layout: Layout, prices: Prices) -> float:
    return prices.latency_s if layout.ranks > 1 else 0.0


def exchange_s(traffic: Traffic, layout: Layout, prices: Prices) -> float:
    """Transfers at the pace of the busiest link, a token of the group.

    "copies" go straight to a rank, one for each expert; "ranks" one for each rank that a token visits; both kinds of
    links work at once. "nodes": one for each node, to its rank of equal place there, which passes it on to each rank
    inside that the token visits, at once or in turn.
    """
    if prices.dispatch == "nodes":
        between_s = between_nodes_s(traffic.nodes, layout, prices)
        return hops_s(between_s, inside_nodes_s(traffic.ranks, layout, prices), prices.turns)
    arrive = traffic.load if prices.dispatch == "copies" else traffic.ranks
    share = layout.share[layout.node_of_rank]
    own = np.bincount(layout.node_of_rank, arrive)[layout.node_of_rank]
    outer = max(np.max(arrive * (1 - share)), np.max(arrive.sum() - own) / layout.ranks)
    inner = max(np.max(arrive * (share - 1 / layout.ranks)), np.max(own - arrive) / layout.ranks)
    return float(max(outer * prices.outer_s, inner * prices.inner_s))


def between_nodes_s(nodes: Floats, layout: Layout, prices: Prices) -> float:
    """A node's ranks share what comes in, and what its own tokens send out."""
    into = nodes * (1 - layout.share)
    out = layout.share * (nodes.sum() - nodes)
    return prices.outer_s * float(np.max(np.maximum(into, out) / layout.ranks_per_node))


def inside_nodes_s(ranks: Floats, layout: Layout, prices: Prices) -> float:
    """Copies into the busiest rank; one of `members` tokens is already there."""
    members = np.asarray(layout.ranks_per_node)[layout.node_of_rank]
    return prices.inner_s * float(np.max(ranks * (1 - 1 / members)))
