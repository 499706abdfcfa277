"""Rooms: how many layers each pipeline rank of a recipe has room for; what nobody asks for is not found out."""

from __future__ import annotations

from ..configuration import Configuration, Recompute
from ..cost.rank_bytes import RankBytes
from ..cost.setting import Setting
from ..schedule.table import held_of

Found = tuple[list[int], list[int]]
"""By rank: layers that fit, and that do not."""


class Rooms:
    """The first `ranks` pipeline ranks of a recipe, whose stages share out layers evenly. More layers never need
    less; of ranks that hold equally many microbatches, those without ends have room for equally many layers."""

    def __init__(self, setting: Setting, recipe: Configuration, ranks: int):
        self._setting, self._recipe, self._bytes = setting, recipe, RankBytes(setting, recipe)
        self._layers = len(setting.architecture.layers)
        self._held = [held_of(recipe, rank) for rank in range(ranks)]
        places = recipe.placement
        ends = [(rank == places[0], rank == places[-1]) for rank in range(ranks)]
        first: dict[object, int] = {}
        self._like = [first.setdefault((*end, held), rank) for rank, (end, held) in enumerate(zip(ends, self._held))]
        self._middle = [not any(end) for end in ends]
        self._found: dict[tuple[int, Recompute], Found] = {}
        self._guess: dict[tuple[int, Recompute], int] = {}

    def most(self, rank: int, start: int, layers: int, choice: Recompute) -> int:
        """The most of so many layers from `start` on that a rank can hold if it recomputes them by `choice`."""
        low, high = self._bounds(start, choice)
        like = self._like[rank]
        if low[like] < layers and high[like] - low[like] > 1:
            self._search(like, start, layers, choice)
        return min(low[like], layers)

    def fits(self, rank: int, start: int, layers: int, choice: Recompute) -> bool:
        """Whether a rank can hold so many layers."""
        low, high = self._bounds(start, choice)
        like = self._like[rank]
        if low[like] < layers < high[like]:
            self._try(like, start, layers, choice)
        return layers <= low[like]

    def _bounds(self, start: int, choice: Recompute) -> Found:
        found = self._found.get((start, choice))
        if found is None:
            ranks = len(self._held)
            found = self._found[start, choice] = [0] * ranks, [self._layers + 1] * ranks
        return found

    def _search(self, rank: int, start: int, layers: int, choice: Recompute) -> None:
        """By bisection, from what the last rank had room for."""
        low, high = self._bounds(start, choice)
        guess = self._guess.get((start, choice), layers)
        before = self._like[rank - 1]
        if self._middle[before] and self._middle[rank] and self._held[before].covers(self._held[rank]):
            low[rank] = max(low[rank], low[before])  # it holds no more
        hints = [layers, guess + 1, guess]
        while low[rank] < layers and high[rank] - low[rank] > 1:
            trial = hints.pop() if hints else (low[rank] + min(high[rank], layers + 1)) // 2
            if low[rank] < trial < high[rank] and trial <= layers:
                self._try(rank, start, trial, choice)
        self._guess[start, choice] = low[rank]

    def _try(self, rank: int, start: int, layers: int, choice: Recompute) -> None:
        contents = self._bytes.contents(rank, self._stages(rank, start, layers), choice, self._held[rank])
        fits = self._bytes.total(contents) <= self._setting.memory_limit_bytes
        self._bounds(start, choice)[0 if fits else 1][rank] = layers

    def _stages(self, rank: int, start: int, layers: int) -> list[range]:
        """Layers of each virtual stage of a rank that has so many from `start` on; the first rank has the first."""
        stages, found = self._recipe.stages_of(rank), list[range]()
        start = start if stages[0] else 0
        few, more = divmod(layers, len(stages))
        for place in range(len(stages)):
            found.append(range(start, start + few + (place < more)))
            start = found[-1].stop
        return found
