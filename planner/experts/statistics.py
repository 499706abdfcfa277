"""Statistics: what a trace is like, in eight numbers that a generator has to meet."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .counts import pairs, windowed
from .metrics import visits
from .trace import Ints, Trace

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Means over layers (the lift of all pairs of all layers)."""

    load_variation: float  # standard deviation of the experts' loads over their mean
    load_peak: float  # largest load over the mean
    entropy: float  # of the loads, over that of equal ones
    window_peak: float  # largest load over the mean in a window, mean over windows
    drift: float  # correlation of the loads of consecutive windows; 1: none
    lift: tuple[float, float, float]  # of pairs over what independent choices give: percentiles 1, 50 and 99
    next_coverage: (
        float  # choices among the fifth of experts most frequent after each of the token's in the layer before
    )
    adjacent_overlap: float  # of a token's experts those that the token before it (of the same prompt) chose too

    def numbers(self) -> dict[str, float]:
        """All of them, the percentiles apart."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "lift"}
        low, middle, high = self.lift
        return {**plain, "lift_p1": low, "lift_p50": middle, "lift_p99": high}


def statistics(trace: Trace, window: int = 4096) -> Statistics:
    """Of a whole trace, with windows of so many tokens."""
    choices = np.ascontiguousarray(trace.experts.transpose(1, 2, 0))
    loads = np.stack([_load(layer, trace.num_experts) for layer in choices])
    share = loads / loads.sum(1, keepdims=True)
    windows = [windowed(layer, trace.num_experts, window) for layer in choices]
    return Statistics(
        float(np.mean(loads.std(1) / loads.mean(1))),
        float(np.mean(loads.max(1) / loads.mean(1))),
        float(np.mean([_entropy(each) for each in share])),
        float(np.mean([each.max(1) / each.mean(1) for each in windows])),
        float(np.mean([drift(each) for each in windows])),
        _lift(choices, trace.num_experts),
        next_coverage(choices, trace.num_experts),
        adjacent_overlap(trace),
    )


def _load(layer: Ints, experts: int) -> Array:
    return np.bincount(layer.ravel(), minlength=experts).astype(float)


def _entropy(share: Array) -> float:
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum() / np.log(len(share))) if len(share) > 1 else 1.0


def drift(windows: Array) -> float:
    """Mean correlation of the loads of consecutive windows [windows, experts]; 1 where there is only one, or no
    spread."""
    found = [float(np.corrcoef(a, b)[0, 1]) for a, b in pairwise(windows) if a.std() > 0 and b.std() > 0]
    return float(np.mean(found)) if found else 1.0


def lifts(layer: Ints, experts: int) -> Array:
    """[experts, experts] of a layer's choices [top_k, tokens]: tokens that chose both over what loads alone make
    expected; 0 where an expert is never chosen."""
    together = pairs(layer, experts)
    load = _load(layer, experts) / layer.shape[1]
    expected = np.outer(load, load)
    return np.divide(together, expected, out=np.zeros_like(together), where=expected > 0)


def _lift(choices: Ints, experts: int) -> tuple[float, float, float]:
    upper = np.triu_indices(experts, 1)
    found = np.concatenate([lifts(layer, experts)[upper] for layer in choices])
    low, middle, high = np.percentile(found, (1, 50, 99)) if len(found) else (1.0, 1.0, 1.0)
    return float(low), float(middle), float(high)


def next_coverage(choices: Ints, experts: int) -> float:
    """Share of the choices of a layer among a fifth of the experts: for each expert in the layer before, those that
    most often come after it. 1 with one layer."""
    top = max(1, round(experts / 5))
    found = []
    for before, after in pairwise(choices):
        joint = transitions(before, after, experts)
        rows = joint[joint.sum(1) > 0]
        best = -np.sort(-rows, axis=1)[:, :top]
        found.append(float(best.sum() / rows.sum()))
    return float(np.mean(found)) if found else 1.0


def transitions(before: Ints, after: Ints, experts: int) -> Array:
    """[experts, experts]: how often a token chose the one in a layer and the other in the next; both are [top_k,
    tokens]."""
    total = np.zeros(experts * experts)
    for row in before.astype(np.intp):
        for column in after:
            total += np.bincount(row * experts + column, minlength=experts * experts)
    return total.reshape(experts, experts)


def adjacent_overlap(trace: Trace) -> float:
    """Of a token's experts those that the token before it chose too, where both are of one prompt."""
    same = np.ones(trace.tokens - 1, np.bool_) if trace.prompt is None else trace.prompt[1:] == trace.prompt[:-1]
    now, before = trace.experts[1:][same], trace.experts[:-1][same]
    if not len(now):
        return 0.0
    hits = sum(np.count_nonzero(now[:, :, place, None] == before) for place in range(trace.top_k))
    return float(hits / now.size)


def node_visits(trace: Trace, node_of: Any, nodes: int) -> Array:
    """[layers]: nodes that a token visits under `node_of` [layers, experts]."""
    rows = zip(trace.experts.transpose(1, 2, 0), node_of, strict=True)
    return np.array([visits(np.asarray(places)[layer], nodes).sum() for layer, places in rows])
