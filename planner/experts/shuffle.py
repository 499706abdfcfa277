"""Shuffle: which tokens of a sequence each tensor-parallel rank takes to the experts, foretold from their ids.

With sequence parallelism the tokens of a sequence are split over tp ranks, and any split into equal parts computes the
same. A token whose experts are on its own rank is not sent there, so ranks had better take the tokens that will stay
(speculative token shuffling, Speculative MoE, arXiv:2503.04398). The split is one for all layers: hidden states stay
with their rank from layer to layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .token_homes import ANYWHERE
from .trace import Floats, Ints, Trace

Groups = Sequence[Sequence[int]]
"""Of each tp group the ep ranks of its members; every rank once."""

_ROUNDING = 1e-9
"""Copies a token below which there are none: sums."""

_UNKNOWN = 1.0
"""A token id is taken to have been seen once more than it was, as the mean of all tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """`share` [ids + 1, ranks]: in how many of the layers a token of an id visits each rank; the last row is that of
    ids that were never seen."""

    share: Floats

    def of(self, ids: Ints) -> Floats:
        """[tokens, ranks]."""
        return np.asarray(self.share[np.minimum(ids, len(self.share) - 1)])


@dataclass(frozen=True, slots=True)
class Sent:
    """A token and layer, to other ranks, one for each that it visits: where tokens are split in order, by the homes of
    their ids (as the runtime does), by all that the forecast says of them, and by what each really visits, which no
    forecast knows."""

    in_order: float
    homes: float
    forecast: float
    known: float

    @property
    def saved(self) -> float:
        """What homes save of those of the split in order; below zero where they cost some."""
        return 1.0 - self.homes / self.in_order if self.in_order > _ROUNDING else 0.0


def fit(trace: Trace, ids: Ints, rank_of: Ints, ranks: int) -> Forecast:
    """From the token ids [tokens] of a trace and the rank of each expert [layers, experts]."""
    visits = _share(trace, rank_of, ranks)
    count, mean = np.bincount(ids), visits.mean(0)
    sums = np.stack([np.bincount(ids, visits[:, rank]) for rank in range(ranks)], 1)
    share = (sums + _UNKNOWN * mean) / (count + _UNKNOWN)[:, None]
    return Forecast(np.concatenate([share, mean[None]]))


def aligned(trace: Trace, ids: Ints, rank_of: Ints, groups: Groups, rounds: int = 4) -> Ints:
    """A placement [layers, experts] in which ranks of a group have exchanged all they hold, layer by layer, so that ids
    that visit a rank in one layer visit it in others; load and visits to nodes stay as they are."""
    ranks, found = sum(map(len, groups)), np.array(rank_of)
    for _ in range(rounds):
        home = _homes(fit(trace, ids, found, ranks).of(ids), groups)
        labels = [_exchanged(home.T @ _visits(trace, layer, row, ranks), groups) for layer, row in enumerate(found)]
        found = np.stack([label[row] for label, row in zip(labels, found, strict=True)])
    return found


def homes(by: Forecast, groups: Groups) -> list[Ints]:
    """Of each group the member [ids] where, beside the mean token, most of an id stays; ANYWHERE for ids never seen."""
    above = by.share[:-1] - by.share[-1]
    found = list[Ints]()
    for group in groups:
        own = above[:, group]
        told = own.max(1) > own.min(1)
        found.append(np.where(told, own.argmax(1), ANYWHERE).astype(np.uint8))
    return found


def settled(home: Ints, parts: int) -> Ints:
    """The part [tokens] of each token of one sequence, equally many each: the first of those at home there, as far as
    there is room, then in order of the sequence those that are left. As the runtime does (parallel/shuffle.py)."""
    each = len(home) // parts
    part = np.full(len(home), -1)
    for number in range(parts):
        part[np.flatnonzero(home == number)[:each]] = number
    room = each - np.bincount(part[part >= 0], minlength=parts)
    part[part < 0] = np.repeat(np.arange(parts), room)
    return part


def split(share: Floats) -> Ints:
    """The part [tokens] that each token of one sequence goes to, equally many each, by `share` [tokens, parts] of what
    stays there. Tokens with most to lose choose first, of equal ones the first in the sequence."""
    tokens, parts = share.shape
    room = np.full(parts, tokens // parts)
    room[: tokens % parts] += 1
    part = np.empty(tokens, np.int64)
    for token in np.argsort(share.mean(1) - share.max(1), kind="stable"):
        part[token] = np.argmax(np.where(room > 0, share[token], -np.inf))
        room[part[token]] -= 1
    return part


def measure(trace: Trace, ids: Ints, rank_of: Ints, groups: Groups, seq_len: int, by: Forecast) -> Sent:
    """Of tokens that nothing was fitted to, in sequences of `seq_len`, which groups divide, that go to the groups in
    turn; a rest that makes no sequence is left out."""
    ranks, expected = sum(map(len, groups)), by.of(ids)
    at_home = [np.append(each, ANYWHERE)[np.minimum(ids, len(each))] for each in homes(by, groups)]
    visits = _share(trace, rank_of, ranks)
    stay, whole = np.zeros(4), trace.tokens // seq_len * seq_len
    for number, first in enumerate(range(0, whole, seq_len)):
        turn, cut = number % len(groups), slice(first, first + seq_len)
        group = np.asarray(groups[turn])
        there, in_order = visits[cut][:, group], np.arange(seq_len) * len(group) // seq_len
        by_home, by_share = settled(at_home[turn][cut], len(group)), split(expected[cut][:, group])
        for way, part in enumerate((in_order, by_home, by_share, split(there))):
            stay[way] += there[np.arange(seq_len), part].sum()
    return Sent(*((visits[:whole].sum() - stay) / whole).tolist())


def _share(trace: Trace, rank_of: Ints, ranks: int) -> Floats:
    """[tokens, ranks]: in how many of the layers a token visits a rank."""
    total = np.zeros((trace.tokens, ranks))
    for layer in range(trace.num_layers):
        total += _visits(trace, layer, rank_of[layer], ranks)
    return total / trace.num_layers


def _visits(trace: Trace, layer: int, rank_of: Ints, ranks: int) -> Floats:
    """1 [tokens, ranks] where a token visits a rank in a layer."""
    visited = np.zeros((trace.tokens, ranks))
    np.put_along_axis(visited, rank_of[trace.experts[:, layer]].astype(np.intp), 1.0, axis=1)
    return visited


def _homes(share: Floats, groups: Groups) -> Floats:
    """1 [tokens, ranks] at the rank of each group where more of a token stays than of the mean token."""
    home, above = np.zeros_like(share), share - share.mean(0)
    for group in groups:
        np.put_along_axis(home, np.asarray(group)[above[:, group].argmax(1)][:, None], 1.0, axis=1)
    return home


def _exchanged(stays: Floats, groups: Groups) -> Ints:
    """The new name [ranks] of every rank, by exchanges of two in a group while these add to what stays; `stays` [home,
    rank] is what of the tokens at home would."""
    held = np.arange(len(stays))  # what lies at each home
    better = True
    while better:
        better = False
        for one, other in (pair for group in groups for pair in combinations(group, 2)):
            now = stays[one, held[one]] + stays[other, held[other]]
            if stays[one, held[other]] + stays[other, held[one]] > now + 1e-9 * abs(now):
                held[[one, other]] = held[[other, one]]
                better = True
    return np.argsort(held)
