"""Metrics: what a placement does with a trace, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

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
    tokens = targets.shape[1]
    nodes = layout.node_of_rank.astype(np.uint16)[targets]
    whole = traffic_of(targets, nodes, layout)
    batches = round(tokens / (prices.tokens_per_rank * layout.ranks))
    cuts = [slice(at[0], at[-1] + 1) for at in np.array_split(np.arange(tokens), batches)] if batches > 1 else []
    parts = [traffic_of(targets[:, cut], nodes[:, cut], layout) for cut in cuts] or [whole]
    sizes = [cut.stop - cut.start for cut in cuts] or [tokens]
    by_window = window_loads(targets, layout.ranks, window)
    homes = layout.share
    return {
        "imbalance": float(whole.load.max() / whole.load.mean()),
        "window_imbalance": float(np.mean(by_window.max(1) / by_window.mean(1))),
        "distinct_ranks": float(whole.ranks.sum()),
        "distinct_nodes": float(whole.nodes.sum()),
        "remote_ranks": float(whole.ranks.sum() * (1 - 1 / layout.ranks)),
        "remote_nodes": float(whole.nodes @ (1 - homes)),
        "time_s": float(np.average([layer_time_s(part, layout, prices) for part in parts], weights=sizes)),
    }


def traffic_of(targets: Ints, nodes: Ints, layout: Layout) -> Traffic:
    """Of the tokens together: `targets` and `nodes` are [top_k, tokens]."""
    load = np.bincount(targets.ravel(), minlength=layout.ranks) / targets.shape[1]
    ranks = visits(targets, layout.ranks)
    return Traffic(load, ranks, ranks if layout.nodes == layout.ranks else visits(nodes, layout.nodes))


def visits(parts: Ints, count: int) -> NDArray[np.float64]:
    """[count]: the share of tokens with at least one of their `parts` [top_k, tokens] in each part."""
    seen = [_visits_of_eight(parts, first) for first in range(0, count, 8)]
    return np.asarray(np.concatenate(seen)[:count] / parts.shape[1])


def _visits_of_eight(parts: Ints, first: int) -> NDArray[np.float64]:
    """Tokens in each of eight parts: a bit a part, one byte a token."""
    table = np.zeros(max(int(parts.max()) + 1, first + 8), np.uint8)
    table[first : first + 8] = 1 << np.arange(8, dtype=np.uint8)
    mask = np.bitwise_or.reduce(table[parts], axis=0)
    return np.asarray(np.bincount(mask, minlength=256) @ _BITS)


def window_loads(targets: Ints, ranks: int, window: int) -> NDArray[np.float64]:
    """[windows, ranks]: rows a token."""
    from .counts import windowed

    return windowed(targets, ranks, window)


def floor_s(load: float, exchange: float, layout: Layout, prices: Prices) -> float:
    """Seconds of one microbatch from the busiest rank's rows a token and the seconds of transfers a token."""
    tokens = prices.tokens_per_rank * layout.ranks
    return tokens * (prices.expert_s * load + exchange) + latency_s(layout, prices)
