"""Splits: of the layers of a recipe over its stages, and what each rank recomputes then: those worth a price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise

from ..configuration import Configuration, Recompute
from ..cost.footprint import fits_host
from ..cost.rank_bytes import RankBytes
from ..cost.setting import Setting
from ..schedule.builder import Held
from ..schedule.table import held_of
from .bottleneck import TOLERANCE, Bottleneck
from .bound import Balancer


def promising(setting: Setting, balancer: Balancer, bottleneck: Bottleneck, least_s: float) -> Iterator[Configuration]:
    """Splits that balance the stages, in one way or another, each with the fastest recomputation that fits."""
    seen, ranks = set(), bottleneck.ranks
    held = RankBytes(setting, ranks.recipe)
    for split in _splits(balancer, bottleneck, least_s):
        if split not in seen:
            seen.add(split)
            found = with_room(setting, replace(ranks.recipe, stage_layers=split), ranks.choices, held)
            if found is not None:
                yield found


def _splits(balancer: Balancer, bottleneck: Bottleneck, least_s: float) -> Iterator[tuple[int, ...]]:
    recipe, ranks = bottleneck.ranks.recipe, bottleneck.ranks
    for choice in ranks.choices:
        yield balancer.balanced(replace(recipe, recompute=(choice,) * ranks.count)).stage_layers
    if ranks.plain:
        filled = bottleneck.fill(least_s * (1 + 2 * TOLERANCE))
        if filled is not None:
            yield tuple(layers for layers, _ in filled)
            yield from _leaning(bottleneck, least_s)
    else:
        yield from _by_rounds(recipe, ranks.layers)


def _leaning(bottleneck: Bottleneck, least_s: float) -> Iterator[tuple[int, ...]]:
    """Under the same threshold, each rank as near to its share of what is left as the ranks after it allow."""
    ranks, limit_s = bottleneck.ranks, least_s * (1 + 2 * TOLERANCE)
    counts, start = list[int](), 0
    for rank in range(ranks.count):
        left = ranks.count - rank
        most, _ = bottleneck.take(rank, start, ranks.layers - start - left + 1, limit_s)
        wanted = min(most, max(1, round((ranks.layers - start) / left)))
        while wanted < most and not bottleneck.completes(rank + 1, start + wanted, limit_s):
            wanted += 1
        counts.append(wanted)
        start += wanted
    if start == ranks.layers:
        yield tuple(counts)


def _by_rounds(recipe: Configuration, layers: int) -> Iterator[tuple[int, ...]]:
    """Stages of one round of the placement hold equally many, so that no rank waits inside of it; what is left over
    goes to the beginning or to the end, or away from the head."""
    ranks, rounds = recipe.mesh.pp, len(recipe.placement) // recipe.mesh.pp
    few, more = divmod(layers, ranks)
    sizes = [few // rounds + (place < few % rounds) for place in range(rounds)]
    if len(recipe.placement) % ranks or not all(sizes):
        return
    for order in (sizes, sizes[::-1]):
        counts = [size for size in order for _ in range(ranks)]
        last = len(counts) - 1
        for lean in (range(1, more + 1), range(last - more, last), range(last - ranks // 2 - more, last - ranks // 2)):
            if more and lean.start >= 0:
                yield tuple(count + (place in lean) for place, count in enumerate(counts))
        if not more:
            yield tuple(counts)


def with_room(
    setting: Setting, configuration: Configuration, choices: tuple[Recompute, ...], held: RankBytes | None = None
) -> Configuration | None:
    """With what each rank must recompute to fit, the fastest first; None where it does not fit so either. `held`: bytes
    of its recipe, where somebody has them."""
    rooms, found = _Rooms(setting, configuration, held or RankBytes(setting, configuration)), list[Recompute]()
    for each in choices:
        rooms.probe(each)
    for rank in range(configuration.mesh.pp):
        choice = next((choice for choice in choices if rooms.fits(rank, choice)), None)
        if choice is None:
            return None
        found.append(choice)
    made = replace(configuration, recompute=tuple(found))
    return made if fits_host(setting, made) else None


class _Rooms:
    """Which ranks of a configuration have room for what they would keep. Of ranks between the ends that have the same
    layers, one that never holds more than one that fits is not asked about, nor one that never holds less than one that
    does not."""

    def __init__(self, setting: Setting, configuration: Configuration, held: RankBytes):
        self._setting, self._configuration, self._bytes = setting, configuration, held
        self._ends = configuration.placement[0], configuration.placement[-1]
        self._layers = _layers_of_ranks(setting, configuration)
        self._fit: dict[tuple[Recompute, tuple[int, ...]], list[Held]] = {}
        self._unfit: dict[tuple[Recompute, tuple[int, ...]], list[Held]] = {}

    def fits(self, rank: int, choice: Recompute) -> bool:
        if rank in self._ends:
            return self._ask(rank, choice)
        key = choice, self._layers[rank]
        fit, unfit = self._fit.setdefault(key, []), self._unfit.setdefault(key, [])
        held = held_of(self._configuration, rank)
        if any(other.covers(held) for other in fit):
            return True
        if any(held.covers(other) for other in unfit):
            return False
        fits = self._ask(rank, choice)
        (fit if fits else unfit).append(held)
        return fits

    def probe(self, choice: Recompute) -> None:
        """Ask about the ranks next to the ends, of which one holds most and one least: they often answer for all."""
        for rank in (self._configuration.mesh.pp - 2, 1):
            if 0 < rank < self._configuration.mesh.pp - 1:
                self.fits(rank, choice)

    def _ask(self, rank: int, choice: Recompute) -> bool:
        contents = self._bytes.contents_of(self._configuration, rank, choice)
        return self._bytes.total(contents) <= self._setting.memory_limit_bytes


def _layers_of_ranks(setting: Setting, configuration: Configuration) -> list[tuple[int, ...]]:
    """By rank, of each of its stages where equal kinds of layers begin and how many it has: ranks of which both are
    equal have equal layers."""
    alike, start = setting.architecture.alike, 0
    found: list[tuple[int, ...]] = [()] * configuration.mesh.pp
    for rank, count in zip(configuration.placement, configuration.stage_layers, strict=True):
        found[rank] = (*found[rank], alike[start], count)
        start += count
    return found


MOST_SPLITS = 200
"""Of a recipe whose splits are all looked at one by one."""


def is_bounded(recipe: Configuration) -> bool:
    """Whether the bound of a recipe is near what its best split takes, so that it stands for all of them: 1F1B alone,
    whose ranks depend on each other only at the beginning and at the end of a step."""
    return recipe.schedule == "1f1b" and not recipe.spread_vocabulary and not recipe.in_flight


def every_split(layers: int, stages: int) -> Iterator[tuple[int, ...]]:
    """Layers of each stage, in all ways."""
    for cuts in combinations(range(1, layers), stages - 1):
        yield tuple(stop - start for start, stop in pairwise((0, *cuts, layers)))
