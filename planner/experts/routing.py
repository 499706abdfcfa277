"""Routing: from a trace to what a search asks of it, for any ep group: the load and the visits of its busiest rank.

Experts are placed for each group that is asked about, on half of the trace (of its prompts, or of its time), and looked
at on the other half. A search reads a few layers and tokens of it, the plan that is chosen all layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...clusters.paths import GroupPaths
from ...errors import InputError
from ..configuration import Dispatch
from .layout import Layout, layout
from .metrics import Metrics
from .place import measure, place
from .placement import Placement
from .prices import Prices
from .replicas import targets_of
from .trace import Ints, Trace

SAMPLE_LAYERS = 4
SAMPLE_TOKENS = 8192
MOST_TOKENS = 32_768
"""Of each half, for the plan that is chosen."""


@dataclass(frozen=True, slots=True)
class Group:
    """An ep group as placement sees it."""

    ep: int
    per_node: int  # ranks in each node
    replicas: int
    dispatch: Dispatch

    @classmethod
    def of(cls, group: GroupPaths, replicas: int, dispatch: Dispatch) -> Group:
        even = group.size % group.domains == 0
        return cls(group.size, group.per_domain if even else 1, replicas, dispatch)

    @property
    def nodes(self) -> list[int]:
        return [self.per_node] * (self.ep // self.per_node)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Experts of some layers on a group. `placement` is None where contiguous is as fast, or nothing else is legal."""

    made: Layout
    placement: Placement | None
    contiguous: Metrics
    placed: Metrics
    load: float
    rank: float
    node: float


@dataclass(frozen=True, eq=False)
class Routing:
    """A trace in two halves, with what was asked of it so far. `groups` of group-limited routing stay whole."""

    source: str
    fit: Trace
    held: Trace
    groups: int = 1
    by: str = "by time"
    _known: dict[tuple[Group, Prices], Fitted] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, trace: Trace, source: str, groups: int = 1) -> Routing:
        """Raises InputError where a half would be empty."""
        fit, held = trace.split()
        if not fit.tokens or not held.tokens:
            parts, count = ("tokens", trace.tokens) if trace.prompt is None else ("prompts", 1)
            rule = f"experts are placed by one half of the {parts} and judged on the other: must be two or more"
            raise InputError.single(source, parts, count, rule, "a longer trace")
        return cls(source, fit, held, groups, "by time" if trace.prompt is None else "by prompt")

    @property
    def tokens(self) -> int:
        return self.fit.tokens + self.held.tokens

    def sampled(self, group: Group, prices: Prices) -> Fitted:
        """On a few layers and tokens, once a group."""
        key = group, prices
        if key not in self._known:
            layers = self.fit.num_layers
            few = np.unique(np.linspace(0, layers - 1, min(layers, SAMPLE_LAYERS)).astype(int))
            fit, held = (_part(each, SAMPLE_TOKENS, few) for each in (self.fit, self.held))
            self._known[key] = fitted(fit, held, group, prices, self.groups)
        return self._known[key]

    def whole(self, group: Group, prices: Prices) -> Fitted:
        """On all layers."""
        every = np.arange(self.fit.num_layers)
        fit, held = (_part(each, MOST_TOKENS, every) for each in (self.fit, self.held))
        return fitted(fit, held, group, prices, self.groups)


def fitted(fit: Trace, held: Trace, group: Group, prices: Prices, groups: int) -> Fitted:
    """The faster of contiguous and fitted placement, by the layer time predicted of the tokens that are held out."""
    experts, window = fit.num_experts, max(1, min(4096, fit.tokens))
    plain = layout(experts, group.nodes)
    even = np.stack([plain.contiguous] * fit.num_layers)
    before = measure(even, held, plain, prices, window)
    placed = _placed(fit, group, prices, groups, window)
    after = before if placed is None else measure(placed.rank_of, held, placed.layout, prices, window)
    if placed is None or (not group.replicas and after.time_s.sum() >= before.time_s.sum()):
        return Fitted(plain, None, before, before, *_busiest(even, held, plain))
    return Fitted(placed.layout, placed, before, after, *_busiest(placed.rank_of, held, placed.layout))


def _placed(fit: Trace, group: Group, prices: Prices, groups: int, window: int) -> Placement | None:
    """None where groups of group-limited routing do not lie on whole ranks and nodes."""
    try:
        found = place(
            fit,
            num_experts=fit.num_experts,
            ranks_per_node=group.nodes,
            replicas=group.replicas,
            n_group=groups,
            split="even",  # the runtime's tokens take copies in turn
            prices=prices,
            window=window,
        )
    except InputError:
        if group.replicas:
            raise
        return None
    return _without_gaps(found, fit) if group.replicas else found


def _without_gaps(placed: Placement, fit: Trace) -> Placement:
    """With the slots filled that a placement has no use for (a second copy of an expert on one rank): plans have
    equally many experts on every rank. Each takes the expert with most rows a copy that the rank has not."""
    hosts = []
    for layer, ranks in enumerate(placed.rank_of):
        load = np.bincount(fit.experts[:, layer].ravel(), minlength=fit.num_experts)
        held = [list(each) for each in ranks]
        count = np.bincount([rank for each in held for rank in each], minlength=placed.layout.ranks)
        for rank in np.repeat(np.arange(placed.layout.ranks), np.asarray(placed.layout.slots) - count):
            free = [expert for expert, each in enumerate(held) if rank not in each]
            held[max(free, key=lambda expert: load[expert] / len(held[expert]))].append(int(rank))
        hosts.append([tuple(sorted(each)) for each in held])
    return replace(placed, rank_of=hosts)


def _busiest(rank_of: Any, held: Trace, made: Layout) -> tuple[float, float, float]:
    """Load of the busiest rank over the mean, and shares of tokens that visit the busiest rank and node; means over
    layers."""
    return tuple(np.mean(list(_of_layers(rank_of, held, made)), axis=0).tolist())


def _of_layers(rank_of: Any, held: Trace, made: Layout) -> Iterator[tuple[float, float, float]]:
    nodes = made.node_of_rank
    for layer, ranks in enumerate(rank_of):
        choices = np.ascontiguousarray(held.experts[:, layer].T)
        to = targets_of(np.asarray(ranks) if made.replicas == 0 else ranks, choices, made)
        load = np.bincount(to.ravel(), minlength=made.ranks)
        yield float(load.max() / load.mean()), _largest_share(to, made.ranks), _largest_share(nodes[to], made.nodes)


def _largest_share(parts: Ints, count: int) -> float:
    """Of the tokens, those with at least one of their `parts` [top_k, tokens] in the part that most have."""
    seen = np.zeros((parts.shape[1], count), np.bool_)
    for row in parts:
        seen[np.arange(len(row)), row] = True
    return float(seen.mean(0).max())


def _part(trace: Trace, tokens: int, layers: Ints) -> Trace:
    """So many tokens, in runs taken evenly, of some layers."""
    count = trace.tokens
    if count > tokens:
        run = min(1024, tokens)
        starts = np.linspace(0, count - run, tokens // run).astype(int)
        trace = trace.take((starts[:, None] + np.arange(run)).ravel())
    return Trace(trace.experts[:, layers], trace.num_experts, trace.prompt)
