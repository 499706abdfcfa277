"""Rooms: how many layers each pipeline rank of a recipe has room for; what nobody asks for is not found out."""

from __future__ import annotations

from typing import NamedTuple

from ..configuration import Configuration, Recompute
from ..cost.rank_bytes import RankBytes
from ..cost.setting import Setting
from ..schedule.builder import Held
from ..schedule.table import held_of

Found = tuple[list[int], list[int]]
"""By rank: layers that fit, and that do not."""


class Rooms:
    """The pipeline ranks of a recipe, whose stages share out layers evenly; there is room where it has room, or one of
    the `others`, which differ from it in what neither schedule nor mesh say. More layers never need less, nor do more
    microbatches: a rank between the ends has room for what the one before it has room for, if it holds no more of as
    many stages."""

    def __init__(self, setting: Setting, recipe: Configuration, *others: Configuration):
        self._setting, self._recipe = setting, recipe
        self._bytes = [RankBytes(setting, each) for each in (recipe, *others)]
        self._layers = len(setting.architecture.layers)
        self._ranks: list[_Rank] = []
        self._found: dict[tuple[int, Recompute], Found] = {}
        self._guess: dict[tuple[int, Recompute], int] = {}

    def most(self, rank: int, start: int, layers: int, choice: Recompute, needed: int = 0) -> int:
        """The most of so many layers from `start` on that a rank can hold if it recomputes them by `choice`; fewer than
        `needed` are as good as none."""
        low, high = self._bounds(start, choice)
        if low[rank] < layers and high[rank] - low[rank] > 1:
            self._inherit(rank, low, high)
            if low[rank] < needed < high[rank]:
                self._try(rank, start, needed, choice)
            if low[rank] < needed:
                return 0
            self._search(rank, start, layers, choice)
        return min(low[rank], layers)

    def fits(self, rank: int, start: int, layers: int, choice: Recompute) -> bool:
        """Whether a rank can hold so many layers."""
        low, high = self._bounds(start, choice)
        if low[rank] < layers < high[rank]:
            self._inherit(rank, low, high)
            if low[rank] < layers < high[rank]:
                self._try(rank, start, layers, choice)
        return layers <= low[rank]

    def _bounds(self, start: int, choice: Recompute) -> Found:
        found = self._found.get((start, choice))
        if found is None:
            ranks = self._recipe.mesh.pp
            found = self._found[start, choice] = [0] * ranks, [self._layers + 1] * ranks
        return found

    def _inherit(self, rank: int, low: list[int], high: list[int]) -> None:
        """What is known of the rank before."""
        while len(self._ranks) <= rank:
            self._ranks.append(_rank(self._recipe, len(self._ranks), self._ranks))
        if self._ranks[rank].no_more:
            low[rank] = max(low[rank], low[rank - 1])
        if self._ranks[rank].no_less:
            high[rank] = min(high[rank], high[rank - 1])

    def _search(self, rank: int, start: int, layers: int, choice: Recompute) -> None:
        """By bisection, from what the last rank had room for."""
        low, high = self._bounds(start, choice)
        guess = self._guess.get((start, choice), layers)
        hints = [layers, guess + 1, guess]
        while low[rank] < layers and high[rank] - low[rank] > 1:
            trial = hints.pop() if hints else (low[rank] + min(high[rank], layers + 1)) // 2
            if low[rank] < trial < high[rank] and trial <= layers:
                self._try(rank, start, trial, choice)
        self._guess[start, choice] = low[rank]

    def _try(self, rank: int, start: int, layers: int, choice: Recompute) -> None:
        """Ask whether so many layers fit."""
        of = self._ranks[rank]
        ranges, limit = of.layers(start, layers), self._setting.memory_limit_bytes
        contents = self._bytes[0].contents(rank, ranges, choice, of.held)  # which are the same of all
        fits = any(each.total(contents) <= limit for each in self._bytes)
        self._bounds(start, choice)[0 if fits else 1][rank] = layers


class _Rank(NamedTuple):
    """What a pipeline rank holds in microbatches, how many stages it has, whether it has the first one, and of one
    between the ends whether it never holds more, or less, than the one before it that is there too and has as many
    stages (a schedule of one's own may say otherwise)."""

    held: Held
    stages: int
    first: bool
    no_more: bool
    no_less: bool

    def layers(self, start: int, layers: int) -> list[range]:
        """Of each virtual stage, if they have so many from `start` on; the first rank has the first."""
        start, found = 0 if self.first else start, list[range]()
        few, more = divmod(layers, self.stages)
        for place in range(self.stages):
            stop = start + few + (place < more)
            found.append(range(start, stop))
            start = stop
        return found


def _rank(recipe: Configuration, rank: int, before: list[_Rank]) -> _Rank:
    places, stages, held = recipe.placement, recipe.stages_of(rank), held_of(recipe, rank)
    between = {places[0], places[-1]}.isdisjoint((rank - 1, rank)) and rank > 0 and before[-1].stages == len(stages)
    no_more = between and before[-1].held.covers(held)
    return _Rank(held, len(stages), stages[0] == 0, no_more, between and held.covers(before[-1].held))
