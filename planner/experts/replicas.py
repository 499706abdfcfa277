"""Replicas: experts that lie on several ranks, and which of them a token is sent to.

A token goes to the replica whose node it visits anyway for experts that lie on one rank only; where several are so, or
none is, replicas take turns by the token's number. Split "even" lets them always take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .assign import nodes_from_starts
from .baselines import eplb
from .counts import Counts, windowed
from .layout import Layout, node_sizes
from .levels import levelled
from .metrics import layer_metrics
from .prices import Prices
from .trace import Floats, Ints

Hosts = list[tuple[int, ...]]
"""Ranks of each expert of a layer, ascending."""

_TRIAL_TOKENS = 32_768
_LOAD_WEIGHTS = (1.0, 10.0)
"""Weight of load beside saved copies where the experts of replicas are chosen."""

_ROUNDS = 8
_REPAIRS = 16


def targets_of(hosts: Any, choices: Ints, layout: Layout) -> Ints:
    """[top_k, tokens]: the rank that each choice goes to, from ranks [experts] or the `hosts` of one layer."""
    if isinstance(hosts, np.ndarray) and hosts.ndim == 1:
        return np.asarray(hosts.astype(np.uint8 if layout.ranks <= 256 else np.uint16)[choices])
    table, count = _table(hosts)
    targets = table[choices, 0]
    visited = np.zeros((layout.nodes, choices.shape[1]), np.bool_)
    tokens = np.arange(choices.shape[1])
    node_of = layout.node_of_rank
    several = count[choices] > 1
    for row, free in zip(targets, several, strict=True):
        visited[node_of[row[~free]], tokens[~free]] = True
    for place, free in enumerate(several):
        chosen, at = choices[place, free], tokens[free]
        targets[place, free] = _nearest(table[chosen], count[chosen], at, node_of, visited, layout.split)
    return np.asarray(targets)


def _table(hosts: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """[experts, most replicas], the first rank again where there are fewer, and how many there are."""
    count = np.array([len(ranks) for ranks in hosts])
    table = np.array([[*ranks, *[ranks[0]] * (int(count.max()) - len(ranks))] for ranks in hosts], np.intp)
    return table, count


def _nearest(table: Ints, count: Ints, tokens: Ints, node_of: Ints, visited: NDArray[np.bool_], split: str) -> Ints:
    """Of each row of `table` one rank: the next in turn, of those on visited nodes first."""
    best = np.full(len(tokens), -1)
    chosen = table[:, 0].copy()
    for place in range(table.shape[1]):
        turn = (place - tokens) % count
        score = (count - turn) + (visited[node_of[table[:, place]], tokens] * 4096 if split == "nearest" else 0)
        better = (place < count) & (score > best)
        best[better], chosen[better] = score[better], table[better, place]
    return chosen


def replicated(counts: Counts, layout: Layout, prices: Prices, window: int) -> Hosts:
    """Hosts of one layer: of those no more loaded than EPLB's with equal slots the fastest by price."""
    step = -(-counts.tokens // _TRIAL_TOKENS)
    trial, each = counts.choices[:, ::step], max(1, window // step)
    rival = eplb(counts.load, layout)
    turns = layer_metrics(targets_of(rival, trial, replace(layout, split="even")), layout, prices, each)
    limits = [turns[name] for name in ("imbalance", "window_imbalance")]
    full = sum(map(len, rival)) == sum(layout.slots)  # it may give one expert two copies on a rank
    found = [
        *([rival] if full else []),
        *(hosts for weight in _LOAD_WEIGHTS for hosts in _candidates(counts, trial, layout, weight, limits, each)),
    ]
    return min(found, key=lambda hosts: _judged(targets_of(hosts, trial, layout), layout, prices, each, limits))


def _judged(targets: Ints, layout: Layout, prices: Prices, window: int, limits: list[float]) -> tuple[float, float]:
    """How far over the limits, and predicted seconds."""
    found = layer_metrics(targets, layout, prices, window)
    over = max(0.0, found["imbalance"] - limits[0], found["window_imbalance"] - limits[1])
    return over, found["time_s"]


def _candidates(
    counts: Counts, trial: Ints, layout: Layout, weight: float, limits: list[float], window: int
) -> Iterator[Hosts]:
    """Hosts for one weight of load, as they are and with load evened across nodes too."""
    slots = node_sizes(layout)
    nodes = nodes_from_starts(counts, _shares(slots, counts.experts))
    hosts = _filled(counts, trial, layout, nodes, slots, weight)
    yield hosts
    for _ in range(_REPAIRS):
        targets = targets_of(hosts, trial, layout)
        load = np.bincount(targets.ravel(), minlength=layout.ranks)
        if load.max() / load.mean() <= limits[0]:
            break
        hosts = _evened(counts, trial, targets, layout, hosts, window)
        yield hosts


def _evened(counts: Counts, trial: Ints, targets: Ints, layout: Layout, hosts: Hosts, window: int) -> Hosts:
    """Experts of one copy exchanged between any ranks, by the loads that routing leads to; those that share few tokens
    with the experts around them first."""
    owner = np.array([expert for expert, ranks in enumerate(hosts) for _ in ranks])
    ranks = np.array([rank for each in hosts for rank in each])
    place = np.full((counts.experts, layout.ranks), -1)
    place[owner, ranks] = np.arange(len(owner))
    copies = place[trial, targets]
    windows = windowed(copies, len(owner), window)
    load = np.bincount(copies.ravel(), minlength=len(owner)) / trial.shape[1]
    single = np.bincount(owner)[owner] == 1
    parents = np.where(single, 0, 1 + np.arange(len(owner)))
    node = layout.node_of_rank[ranks]
    joint = counts.together[np.ix_(owner, owner)] @ np.eye(layout.nodes)[node]
    there = joint[:, node] - joint[np.arange(len(owner)), node][:, None]
    moved = levelled(load, windows, ranks, parents, -(there + there.T) / counts.top_k)
    again: list[list[int]] = [[] for _ in hosts]
    for expert, rank in zip(owner.tolist(), moved.tolist(), strict=True):
        again[expert].append(rank)
    return [tuple(sorted(each)) for each in again]


def _shares(slots: Ints, experts: int) -> Ints:
    """How many of the experts each node holds first: in proportion to its slots, largest remainders up."""
    exact = slots * experts / slots.sum()
    whole = np.floor(exact).astype(np.intp)
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: experts - int(whole.sum())]] += 1
    return np.asarray(whole)


def _filled(counts: Counts, trial: Ints, layout: Layout, nodes: Ints, slots: Ints, weight: float) -> Hosts:
    """Replicas added in rounds, each where it saves most copies and takes most load off; then ranks inside nodes."""
    held = np.zeros((counts.experts, layout.nodes), np.intp)  # copies of an expert in a node
    held[np.arange(counts.experts), nodes] = 1
    most = np.asarray(layout.ranks_per_node)
    per_round = max(1, -(-int((slots - held.sum(0)).max()) // _ROUNDS))
    while (held.sum(0) < slots).any():
        gain = _saved(trial, held) + weight * _relief(counts.load, held)
        gain[held >= most] = -np.inf
        for node in np.flatnonzero(held.sum(0) < slots):
            room = min(per_round, int(slots[node] - held[:, node].sum()))
            usable = np.argsort(-gain[:, node], kind="stable")[:room]
            usable = usable[np.isfinite(gain[usable, node])]
            held[usable, node] += 1
    return _on_ranks(counts, trial, layout, held)


def _saved(trial: Ints, held: Ints) -> Floats:
    """[experts, nodes]: visits a token that one more copy of an expert in a node saves: of tokens that visit the node
    anyway, and the expert's present node for it alone."""
    experts, tokens = held.shape[0], trial.shape[1]
    home = held.argmax(1)
    single = (held > 0).sum(1) == 1
    inside = np.zeros((tokens, held.shape[1]), np.float32)
    for row in trial:
        # experts in several nodes visit none by themselves
        np.add.at(inside, (np.flatnonzero(single[row]), home[row[single[row]]]), 1.0)
    gain = np.zeros(held.shape)
    for row in trial:
        alone = single[row] & (inside[np.arange(tokens), home[row]] == 1)
        for node in range(held.shape[1]):
            useful = alone & (inside[:, node] > 0) & (home[row] != node)
            gain[:, node] += np.bincount(row[useful], minlength=experts)
    return np.asarray(gain / tokens)


def _relief(load: Floats, held: Ints) -> Floats:
    """[experts, nodes]: load that one more copy takes off each of the others, more where the node has less load."""
    copies = held.sum(1)
    per_copy = load / copies
    nodes = per_copy @ held
    return np.asarray((per_copy / (copies + 1))[:, None] * (nodes.mean() / np.maximum(nodes, 1e-12))[None, :])


def _on_ranks(counts: Counts, trial: Ints, layout: Layout, held: Ints) -> Hosts:
    """Copies of a node on its ranks: of one expert on different ones, loads as even as exchanges make them."""
    owner = np.repeat(np.arange(counts.experts), held.sum(1))
    node = np.concatenate([np.repeat(np.arange(layout.nodes), row) for row in held])
    share = _node_shares(trial, held) / np.maximum(held, 1)
    part = share[owner, node]
    load = counts.load[owner] * part
    ranks = np.zeros(len(owner), np.intp)
    for place, members in enumerate(np.split(np.arange(layout.ranks), np.cumsum(layout.ranks_per_node)[:-1])):
        inside = np.flatnonzero(node == place)
        ranks[inside] = members[_packed(load[inside], held[owner[inside], place], owner[inside], layout, members)]
    movable = held[owner, node] == 1
    parents = np.where(movable, node, layout.nodes + np.arange(len(owner)))
    moved = levelled(load, counts.windows[:, owner] * part, ranks, parents)
    hosts: list[list[int]] = [[] for _ in range(counts.experts)]
    for expert, rank in zip(owner.tolist(), moved.tolist(), strict=True):
        hosts[expert].append(rank)
    return [tuple(sorted(each)) for each in hosts]


def _packed(load: Floats, copies: Ints, owner: Ints, layout: Layout, members: Ints) -> Ints:
    """Which of the `members` each copy of a node goes to: several of one expert to different ones with most room,
    others, the most loaded first, to the one of least load with room."""
    room = np.asarray(layout.slots)[members].copy()
    held, places = np.zeros(len(members)), np.zeros(len(load), np.intp)
    taken: dict[int, set[int]] = {}
    for copy in np.lexsort((owner, -load, -copies)):
        before = taken.setdefault(int(owner[copy]), set())
        free = [rank for rank in range(len(members)) if room[rank] > 0 and rank not in before]
        if copies[copy] > 1:
            rank = max(free, key=lambda each: (room[each], -held[each]))
        else:
            rank = min(free, key=lambda each: held[each])
        before.add(rank)
        places[copy], held[rank], room[rank] = rank, held[rank] + load[copy], room[rank] - 1
    return places


def _node_shares(trial: Ints, held: Ints) -> Floats:
    """[experts, nodes]: of an expert's choices, those that its copies in a node serve: at visited nodes first."""
    present = held > 0
    single = present.sum(1) == 1
    home = held.argmax(1)
    tokens = trial.shape[1]
    visited = np.zeros((tokens, held.shape[1]), np.bool_)
    for row in trial:
        fixed = np.flatnonzero(single[row])
        visited[fixed, home[row[fixed]]] = True
    served = np.zeros(held.shape)
    for row in trial:
        wanted = present[row] & visited
        wanted = np.where(wanted.any(1)[:, None], wanted, present[row]) * held[row]
        np.add.at(served, row, wanted / wanted.sum(1, keepdims=True))
    return np.asarray(served / np.maximum(served.sum(1, keepdims=True), 1e-12))
