"""Prices of a cluster that runs have taught something about (`clusters/adjustment.py`): the one place that applies it.

`Setting` asks here for its paths, its execution costs and its blocks, from which all prices and bounds are made, so
that both move alike. Without an adjustment everything comes back as it went in.

- compute: seconds of every block's kernels over `compute`; `layer_s` more a layer and microbatch, a third of it
  forward, as a backward has twice the products;
- links: latency and bandwidth of paths inside a domain (`fabric`) and beyond it (`network`); where operations were
  measured, the seconds that do not depend on bandwidth count as latency;
- overlap: the share of compute that is left beside a collective, over the framework's `1 - steal`;
- step: beside the framework's fixed seconds of a step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...clusters.adjustment import Adjustment
from ...clusters.link_costs import slower
from ...clusters.paths import GroupPaths, Path
from ...clusters.schema import Cluster
from ..frameworks.framework import Costs
from .blocks import Block, ModelCosts

FORWARD = 1 / 3
"""Of a layer's seconds."""

MOST_STOLEN = 0.95
"""Compute never stands still beside a collective."""


def adjustment_of(cluster: Cluster, framework: str) -> Adjustment | None:
    """What counts for a framework: none where runs of another one were fitted, or where nothing moved."""
    found = cluster.adjustment
    return found if found is not None and found.framework == framework and found.moved else None


def path(found: Path, by: Adjustment | None) -> Path:
    """A path between two devices."""
    scale = None if by is None else by.network if found.is_network else by.fabric
    if scale is None or scale.is_idle:
        return found
    rate, costs = found.bandwidth_bytes_per_s * scale.bandwidth, slower(found.costs, scale.latency)
    return replace(found, bandwidth_bytes_per_s=rate, latency_s=found.latency_s * scale.latency, costs=costs)


def group(found: GroupPaths, by: Adjustment | None) -> GroupPaths:
    """The paths of a group: inside of domains, and between them."""
    if by is None:
        return found
    parts: dict[str, Any] = {name: getattr(found, name) for name in ("inner", "outer", "outer_pairs")}
    scaled: dict[str, Any] = {name: path(part, by) for name, part in parts.items() if part is not None}
    return replace(found, **scaled)


def execution(costs: Costs, by: Adjustment | None) -> Costs:
    """What a framework's execution costs beside kernels and links."""
    if by is None:
        return costs
    steal = min(MOST_STOLEN, max(0.0, 1 - (1 - costs.steal) * by.overlap))
    return costs.model_copy(update={"steal": steal, "step_s": costs.step_s + by.step_s})


def blocks(costs: ModelCosts, by: Adjustment | None) -> ModelCosts:
    """Layers and ends of a model; equal layers stay one object."""
    if by is None or (by.compute == 1.0 and by.layer_s == 0.0):
        return costs
    made = {id(block): _block(block, by, by.layer_s) for block in costs.kinds}
    shares: Any = costs.shares and tuple(_block(each, by, 0.0) for each in costs.shares)
    return replace(
        costs,
        layers=tuple(made[id(block)] for block in costs.layers),
        embedding=_block(costs.embedding, by, 0.0),
        head=_block(costs.head, by, 0.0),
        shares=shares,
    )


def _block(block: Block, by: Adjustment, fixed_s: float) -> Block:
    compute, rate = block.compute, by.compute
    forward_s, backward_s = compute.forward_s / rate, compute.backward_s / rate
    return replace(
        block,
        selective_s=block.selective_s / rate,
        again_s=_again_s(block, rate, FORWARD * fixed_s),
        split_s=block.split_s / rate,
        compute=replace(
            compute,
            forward_s=forward_s + FORWARD * fixed_s,
            backward_s=backward_s + (1 - FORWARD) * fixed_s,
            attention_forward_s=compute.attention_forward_s / rate,
            attention_backward_s=compute.attention_backward_s / rate,
            weight_s=compute.weight_s / rate,
            experts_s=(compute.experts_s[0] / rate, compute.experts_s[1] / rate),
        ),
    )


def _again_s(block: Block, rate: float, fixed_s: float) -> float | None:
    """Full recomputation that was measured holds collectives too, which are no compute."""
    if block.again_s is None:
        return None
    compute_s = block.recompute_compute_s("full")
    return block.again_s - compute_s + compute_s / rate + fixed_s
