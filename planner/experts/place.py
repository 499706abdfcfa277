"""Place: the library call. Experts to ranks, from a trace, so that a layer's predicted time is least."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import InputError, Problem
from .assign import STEEP, assignments
from .bound import Proof, layer_bound_s
from .counts import Counts, counted
from .exact import best_placement, is_small
from .layout import Layout, Split, layout
from .levels import levelled
from .metrics import Metrics, joined, layer_metrics, rank_metrics, traffic_of_ranks
from .placement import Placement
from .prices import Prices, layer_time_s
from .replicas import replicated, targets_of
from .trace import Ints, Trace, as_trace

Best = tuple[Ints, float]
"""Of a layer that is small enough, the best ranks [experts] of all, and their seconds."""

_TOKENS = 131_072
"""A longer trace is read in so many tokens, in windows taken evenly from it: loads are then known to 1 %."""

_ROUNDED = 1 - 1e-12
"""Of a bound: sums in another order must not lift it over the placement that reaches it."""

_EASED = 64
"""Exchanges by which a placement is brought into its limits at most."""

_TRIAL_TOKENS = 8192
"""Tokens by which candidates are told apart; the one chosen is measured on all."""


def place(
    trace: Trace | Ints | Any,
    *,
    num_experts: int,
    ranks_per_node: Sequence[int],
    replicas: int = 0,
    slots: Sequence[int] | None = None,
    n_group: int = 1,
    split: Split = "nearest",
    prices: Prices | None = None,
    window: int = 4096,
    max_imbalance: float | None = None,
    proof: Proof = "quick",
) -> Placement:
    """Experts of every layer on ranks, the busiest rank and the links in view.

    `trace` is a Trace or an integer array [tokens, layers, top_k] in order of time. `slots` are experts that each rank
    holds (equal unless given), `replicas` copies beside the first of each expert (`split` says which of them a token
    takes), `n_group` the groups of group-limited routing (only whole groups and experts inside a group are then
    permuted). `window` tokens are one microbatch of the group for balance; every layer's imbalance is kept at or
    under `max_imbalance`, if not given the mean over layers under that of contiguous placement (over all tokens and in
    windows both), wherever a placement that does is found. A "thorough" `proof` takes longer and leaves a smaller gap;
    the placement is the same.

    Deterministic. Raises InputError with every problem of the arguments or of the trace.
    """
    begin = time.perf_counter()
    given = as_trace(trace, num_experts)
    _check(window, max_imbalance, proof)
    made, prices = layout(num_experts, ranks_per_node, replicas, slots, n_group, split), prices or Prices()
    pairs = [_counted(each, made, prices, window) for each in transposed(given, window)]
    ranks = [_layer(each, made, prices, window, max_imbalance, known) for each, known in pairs]
    if max_imbalance is None and not replicas:
        ranks = _evened(pairs, ranks, made, prices, window)
    found = [_priced(*pair, placed, made, prices, window, proof) for pair, placed in zip(pairs, ranks, strict=True)]
    metrics, bounds = joined([each[0] for each in found]), [each[1] for each in found]
    rank_of = ranks if replicas else np.stack(ranks)
    return Placement(rank_of, made, metrics, _ROUNDED * float(sum(bounds)), time.perf_counter() - begin)


def measure(
    rank_of: Any, trace: Trace | Ints | Any, placed: Layout, prices: Prices | None = None, window: int = 4096
) -> Metrics:
    """What a placement does with a trace, another one than it was made from for instance."""
    given, prices = as_trace(trace, placed.experts), prices or Prices()
    choices = np.ascontiguousarray(given.experts.transpose(1, 2, 0))
    rows = zip(rank_of, choices, strict=True)
    return joined([layer_metrics(targets_of(ranks, each, placed), placed, prices, window) for ranks, each in rows])


def _check(window: int, max_imbalance: float | None, proof: str) -> None:
    problems = []
    if window < 1:
        problems.append(Problem("window", window, "must be at least 1 token", "4096"))
    if max_imbalance is not None and max_imbalance < 1:
        problems.append(Problem("max_imbalance", max_imbalance, "the busiest rank has at least the mean", "1.0"))
    if proof not in ("quick", "thorough"):
        problems.append(Problem("proof", proof, "must be quick or thorough", "quick"))
    if problems:
        raise InputError("placement", problems)


def transposed(trace: Trace, window: int) -> Ints:
    """[layers, top_k, tokens], of a long trace in whole windows taken evenly."""
    experts = trace.experts
    if len(experts) > _TOKENS:
        count, kept = len(experts) // window, max(1, _TOKENS // window)
        chosen = (np.arange(kept) * count // kept) if count > kept else np.arange(max(1, count))
        experts = experts[(chosen[:, None] * window + np.arange(min(window, len(experts)))).ravel()]
    return np.ascontiguousarray(experts.transpose(1, 2, 0))


def _counted(choices: Ints, made: Layout, prices: Prices, window: int) -> tuple[Counts, Best | None]:
    """Of one layer."""
    counts = counted(choices, made.experts, window)
    return counts, best_placement(counts, made, prices, made.contiguous) if is_small(made) else None


def _layer(
    counts: Counts, made: Layout, prices: Prices, window: int, max_imbalance: float | None, best: Best | None
) -> Any:
    """Ranks of the experts of one layer."""
    if made.replicas:
        return replicated(counts, made, prices, window)
    return chosen(counts, made, prices, window, [max_imbalance or math.inf] * 2, best)


def _evened(
    layers: list[tuple[Counts, Best | None]], ranks: list[Ints], made: Layout, prices: Prices, window: int
) -> list[Ints]:
    """The same, no less even than contiguous placement in the mean over layers: those layers that are the most over it
    are placed again within its imbalance, one after another until the mean is reached."""
    pairs = [(each, placed) for (each, _), placed in zip(layers, ranks, strict=True)]
    over = np.array([np.subtract(imbalances(c, r, made), imbalances(c, made.contiguous, made)) for c, r in pairs])
    for layer in np.argsort(-over.max(1), kind="stable"):
        if (over.mean(0) <= 0).all():
            break
        counts, best = layers[layer]
        limits = imbalances(counts, made.contiguous, made)
        ranks[layer] = chosen(counts, made, prices, window, limits, best)
        over[layer] = np.subtract(imbalances(counts, ranks[layer], made), limits)
    return ranks


def _priced(
    counts: Counts, best: Best | None, ranks: Any, made: Layout, prices: Prices, window: int, proof: Proof
) -> tuple[dict[str, float], float]:
    """Metrics and bound of one layer."""
    if made.replicas:
        metrics = layer_metrics(targets_of(ranks, counts.choices, made), made, prices, window)
    else:
        metrics = rank_metrics(ranks, counts, made, prices)
    if best is not None:
        return metrics, best[1]
    inside = None if made.replicas else inside_nodes(counts, ranks, made)
    return metrics, layer_bound_s(counts, made, prices, inside, proof)


def inside_nodes(counts: Counts, ranks: Ints, made: Layout) -> float:
    """Pairs of a token's experts that share a node, a token."""
    nodes = made.node_of_rank[ranks]
    return float(counts.together[nodes[:, None] == nodes[None, :]].sum() / 2)


def chosen(
    counts: Counts, made: Layout, prices: Prices, window: int, limits: list[float], best: Best | None = None
) -> Ints:
    """The candidate of least predicted time among those in the limits (of `imbalances`); the nearest where none is."""
    even = made.contiguous
    tried = [even, *assignments(counts, made, prices)]
    if best is not None:
        tried.append(best[0])
    judged = [_judged(counts, ranks, made, prices, window, limits) for ranks in tried]
    over, _, fastest = min(judged, key=lambda each: each[1])
    if over > 0:
        eased = _eased(counts, fastest, made, prices, limits)
        judged += [_judged(counts, ranks, made, prices, window, limits) for ranks in eased]
        if not eased or judged[-1][0] > 0:
            steep = assignments(counts, made, prices, STEEP, made.node_of_rank[fastest])
            judged += [_judged(counts, ranks, made, prices, window, limits) for ranks in steep]
    return min(judged, key=lambda each: each[:2])[2]


def _eased(counts: Counts, ranks: Ints, made: Layout, prices: Prices, limits: list[float]) -> list[Ints]:
    """The placement after exchanges between any ranks that even loads and cost few copies, until within the limits."""
    if made.groups > 1:
        return []
    anywhere = np.zeros(made.experts, np.intp)
    copy = prices.outer_s / prices.expert_s / made.ranks / counts.top_k  # rows that a copy takes as long as
    for _ in range(_EASED):
        node = made.node_of_rank[ranks]
        joint = counts.together @ np.eye(made.nodes)[node]
        there = joint[:, node] - joint[np.arange(made.experts), node][:, None]
        lost = np.where(node[:, None] == node[None, :], 0.0, 2 * counts.together - there - there.T)
        moved = levelled(counts.load, counts.windows, ranks, anywhere, copy * lost, most=1)
        if (moved == ranks).all():
            break
        ranks = moved
        if all(each <= limit for each, limit in zip(imbalances(counts, ranks, made), limits, strict=True)):
            break
    return [ranks]


def _judged(
    counts: Counts, ranks: Ints, made: Layout, prices: Prices, window: int, limits: list[float]
) -> tuple[float, float, Ints]:
    """How far a candidate is over the limits, its predicted seconds, and itself."""
    step = max(1, counts.tokens // _TRIAL_TOKENS)
    pairs = zip(imbalances(counts, ranks, made), limits, strict=True)
    over = max(0.0, *(each - limit for each, limit in pairs))
    load = counts.load @ np.eye(made.ranks)[ranks]
    seconds = layer_time_s(traffic_of_ranks(ranks, counts.choices[:, ::step], load, made), made, prices)
    return (over if over > 1e-9 else 0.0), seconds, ranks


def imbalances(counts: Counts, ranks: Ints, made: Layout) -> list[float]:
    """Of all tokens, and in windows (their mean)."""
    parts = np.eye(made.ranks)[ranks]
    whole, windows = counts.load @ parts, counts.windows @ parts
    return [float(whole.max() / whole.mean()), float(np.mean(windows.max(1) / windows.mean(1)))]
