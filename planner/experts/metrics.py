"""Metrics: what a placement does with a trace, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .counts import Counts, expert_load, windowed
from .layout import Layout
from .prices import Prices, Traffic, latency_s, layer_time_s
from .trace import Floats, Ints

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.float64)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Each is a number a layer [layers]. Homes of tokens are spread evenly over all ranks."""

    imbalance: Floats  # rows of the busiest rank over the mean, of all tokens
    window_imbalance: Floats  # the same in windows of so many tokens, their mean
    distinct_ranks: Floats  # that a token visits
    distinct_nodes: Floats
    remote_ranks: Floats  # copies a token to other ranks, one for each that it visits
    remote_nodes: Floats  # copies a token to other nodes, one for each that it visits
    time_s: Floats  # predicted, of one microbatch

    def means(self) -> dict[str, float]:
        """Over layers; `time_s` is of all layers together."""
        means = {field.name: float(np.mean(getattr(self, field.name))) for field in fields(self)}
        return {**means, "time_s": float(np.sum(self.time_s))}


def joined(layers: list[dict[str, float]]) -> Metrics:
    """Metrics of layers, one after another."""
    return Metrics(**{field.name: np.array([layer[field.name] for layer in layers]) for field in fields(Metrics)})


def layer_metrics(targets: Ints, layout: Layout, prices: Prices, window: int) -> dict[str, float]:
    """Of one layer, from the ranks [top_k, tokens] that its tokens' choices go to."""
    nodes = layout.node_of_rank.astype(np.uint16)[targets]
    parts = [traffic_of(targets[:, cut], nodes[:, cut], layout) for cut in _batches(targets.shape[1], layout, prices)]
    return _told(parts, targets.shape[1], window_loads(targets, layout.ranks, window), layout, prices)


def rank_metrics(ranks: Ints, counts: Counts, layout: Layout, prices: Prices) -> dict[str, float]:
    """The same of a placement without replicas, `ranks` [experts]: loads are sums of the experts' own."""
    inside = np.eye(layout.ranks)[ranks]
    parts = []
    for cut in _batches(counts.tokens, layout, prices):
        choices = counts.choices[:, cut]
        load = counts.load if choices.shape[1] == counts.tokens else expert_load(choices, counts.experts)
        parts.append(traffic_of_ranks(ranks, choices, load @ inside, layout))
    return _told(parts, counts.tokens, counts.windows @ inside, layout, prices)


def _batches(tokens: int, layout: Layout, prices: Prices) -> list[slice]:
    """Microbatches of a trace, as near to their size as equal parts are; the last ones may be a token shorter."""
    batches = max(1, round(tokens / (prices.tokens_per_rank * layout.ranks)))
    ends = np.cumsum([0, *(len(each) for each in np.array_split(np.empty(tokens, np.bool_), batches))]).tolist()
    return [slice(begin, end) for begin, end in pairwise(ends)]


def _told(
    parts: list[Traffic], tokens: int, windows: NDArray[np.float64], layout: Layout, prices: Prices
) -> dict[str, float]:
    """Metrics from the traffic of microbatches and the loads of windows."""
    sizes = [cut.stop - cut.start for cut in _batches(tokens, layout, prices)]
    load, ranks, nodes = (
        np.average([getattr(part, each.name) for part in parts], axis=0, weights=sizes) for each in fields(Traffic)
    )
    return {
        "imbalance": float(load.max() / load.mean()),
        "window_imbalance": float(np.mean(windows.max(1) / windows.mean(1))),
        "distinct_ranks": float(ranks.sum()),
        "distinct_nodes": float(nodes.sum()),
        "remote_ranks": float(ranks.sum() * (1 - 1 / layout.ranks)),
        "remote_nodes": float(nodes @ (1 - layout.share)),
        "time_s": float(np.average([layer_time_s(part, layout, prices) for part in parts], weights=sizes)),
    }


def traffic_of_ranks(ranks: Ints, choices: Ints, load: Floats, layout: Layout) -> Traffic:
    """Of the tokens together: `choices` [top_k, tokens], `ranks` [experts], `load` [ranks] rows a token."""
    by_rank = visits_of(ranks, choices, layout.ranks)
    if layout.nodes == layout.ranks:
        return Traffic(load, by_rank, by_rank)
    return Traffic(load, by_rank, visits_of(layout.node_of_rank[ranks], choices, layout.nodes))


def traffic_of(targets: Ints, nodes: Ints, layout: Layout) -> Traffic:
    """Of the tokens together: `targets` and `nodes` are [top_k, tokens]."""
    load = np.bincount(targets.ravel(), minlength=layout.ranks) / targets.shape[1]
    ranks = visits(targets, layout.ranks)
    return Traffic(load, ranks, ranks if layout.nodes == layout.ranks else visits(nodes, layout.nodes))


def visits(parts: Ints, count: int) -> NDArray[np.float64]:
    """[count]: the share of tokens with at least one of their `parts` [top_k, tokens] in each part."""
    return visits_of(np.arange(max(count, int(parts.max()) + 1)), parts, count)


def visits_of(part: Ints, choices: Ints, count: int) -> NDArray[np.float64]:
    """[count]: the share of tokens with at least one of their `choices` [top_k, tokens] in each `part` [experts]."""
    seen = [_visits_of_eight(part, choices, first) for first in range(0, count, 8)]
    return np.asarray(np.concatenate(seen)[:count] / choices.shape[1])


def _visits_of_eight(part: Ints, choices: Ints, first: int) -> NDArray[np.float64]:
    """Tokens in each of eight parts: a bit a part, one byte a token."""
    inside = (part >= first) & (part < first + 8)
    bits = np.where(inside, 1 << (part - first).clip(0, 7), 0).astype(np.uint8)
    mask = np.bitwise_or.reduce(bits.take(choices), axis=0)
    return np.asarray(np.bincount(mask, minlength=256) @ _BITS)


def window_loads(targets: Ints, ranks: int, window: int) -> NDArray[np.float64]:
    """[windows, ranks]: rows a token."""
    return windowed(targets, ranks, window)


def floor_s(load: float, exchange: float, layout: Layout, prices: Prices) -> float:
    """Seconds of one microbatch from the busiest rank's rows a token and the seconds of transfers a token."""
    tokens = prices.tokens_per_rank * layout.ranks
    return tokens * (prices.expert_s * load + exchange) + latency_s(layout, prices)
