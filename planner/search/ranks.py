"""Ranks: what each pipeline rank of a recipe can do in how much time, and what it has room for.

Asked rank by rank, since ends, microbatches in flight and devices may differ; equal questions are answered once.
Seconds and bytes of several virtual stages count as if their layers were spread evenly over them: no other way takes
less. Where layers differ, ranks with several stages are asked about layers of one kind at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property

from ..configuration import Configuration, Recompute
from ..cost.blocks import ModelCosts
from ..cost.setting import Setting
from ..cost.stage import transfer_s
from ..schedule import CUSTOM
from ..schedule.table import splits
from .rooms import Rooms
from .tables import Seconds, Tables
from .waits import Waits, waits_of


class Ranks:
    """The pipeline ranks of a recipe, whose split and recomputation are open. `choices` are what a rank may
    recompute, the fastest first; of these, what saves nothing is left out."""

    def __init__(
        self,
        setting: Setting,
        recipe: Configuration,
        choices: tuple[Recompute, ...],
        tables: Tables | None = None,
        lightest: tuple[Configuration, ...] = (),
        waits: Waits | None = None,
    ):
        self.setting, self.recipe = setting, recipe
        self.lightest = lightest or (recipe,)  # what memory is asked of: there is room where one of them has it
        self._waits = waits  # where these ranks stand for several recipes
        self.costs = setting.costs(recipe)
        self.choices = _saving(self.costs, choices)
        self.count, self.places = recipe.mesh.pp, recipe.placement
        self.plain = self.places == tuple(range(self.count))  # one stage a rank, in their order
        self.layers = len(setting.architecture.layers)
        self.most = self.layers - len(self.places) + 1  # of one virtual stage: the others have one each
        self.halves = splits(recipe)
        self.whole = not self.halves and recipe.schedule != CUSTOM
        self._alike = setting.architecture.alike
        self.tables = tables or Tables(setting, recipe)  # of recipes that share out a microbatch alike
        self._seconds: dict[tuple[int, int, Recompute], Seconds] = {}

    @cached_property
    def hop_s(self) -> float:
        return transfer_s(self.setting, self.recipe)

    @cached_property
    def waits(self) -> Waits:
        """For data parallelism and the optimizer, at the least."""
        return self._waits or waits_of(self.setting, self.recipe)

    @cached_property
    def firsts(self) -> list[int]:
        """The first virtual stage of each rank."""
        return [min(self.recipe.stages_of(rank)) for rank in range(self.count)]

    def in_time(self, rank: int, start: int, choice: Recompute, spare_s: float) -> int:
        """The most layers from `start` on with which one microbatch through all stages of a rank takes no longer."""
        return bisect_right(self.seconds(rank, start, choice), spare_s) - 1

    def bare(self, spare_s: float) -> int:
        """The same from the first layer on, of one stage without ends."""
        seconds = self.tables.of_one_stage(0, (False, False), self.choices[0], self.halves)
        return bisect_right(seconds, spare_s) - 1

    def busy_s(self, rank: int, start: int, choice: Recompute, layers: int) -> float:
        """Seconds of one microbatch through all stages of a rank that has so many layers."""
        return self.seconds(rank, start, choice)[layers]

    def alone_s(self, layers: int, choice: Recompute) -> float:
        """Device seconds of one microbatch through so many layers."""
        return self.costs.forward[layers] + self.costs.backward[choice][layers]

    def seconds(self, rank: int, start: int, choice: Recompute) -> Seconds:
        """Of one microbatch through all stages of a rank, by how many layers from `start` on these have."""
        asked = rank, self._alike[start], choice
        found = self._seconds.get(asked)
        if found is None:
            found = self._seconds[asked] = self._seconds_like(*asked)
        return found

    def _seconds_like(self, rank: int, start: int, choice: Recompute) -> Seconds:
        """Of all ranks that are alike."""
        ends, chunks = (self.firsts[rank] == 0, self.places[-1] == rank), self.chunks(rank)
        if self.plain:
            return self.tables.of_one_stage(start, ends, choice, self.halves)
        return self.tables.of_several(chunks, self.most, ends, choice, self.halves)

    @property
    def passes_s(self) -> float:
        """Of a spread vocabulary, before the backward of each microbatch."""
        return self.tables.passes_s

    def chunks(self, rank: int) -> int:
        """Virtual stages of a rank."""
        return self._chunks[rank]

    @cached_property
    def _chunks(self) -> list[int]:
        return [len(self.recipe.stages_of(rank)) for rank in range(self.count)]

    @cached_property
    def least_s(self) -> float:
        """One microbatch through everything, on all ranks together: device time alone."""
        return self.least_of(self.choices[0])

    def least_of(self, choice: Recompute) -> float:
        """The same where all ranks recompute alike."""
        return self.costs.alone_s[choice] + self.count * self.passes_s

    @cached_property
    def forward_share(self) -> float:
        """The least part that forwards have of what stands before a stage."""
        costs = self.costs
        pairs = [(block.forward_s, block.backward_s(self.choices[0])) for block in costs.kinds]
        pairs += [(costs.embedding.forward_s, costs.embedding.backward_s("none"))]
        return min(forward / (forward + backward) for forward, backward in pairs if forward + backward)

    def lead_s(self, rank: int, before: int) -> tuple[float, float]:
        """Seconds forward and backward of one microbatch through the first `before` layers and from rank to rank, at
        the least: device time alone."""
        if not (rank and before):
            return 0.0, 0.0
        (forward_s, backward_s), hops_s = self._leads[before], self._hops_s[rank]
        return forward_s + hops_s, backward_s + hops_s

    @cached_property
    def _leads(self) -> list[tuple[float, float]]:
        return self.costs.leads[self.choices[0]]

    @cached_property
    def _hops_s(self) -> list[float]:
        """To the first stage of each rank."""
        return [first * self.hop_s for first in self.firsts]

    @cached_property
    def _rooms(self) -> Rooms:
        return Rooms(self.setting, *self.lightest)

    def with_room(self, rank: int, start: int, layers: int, choice: Recompute, needed: int = 0) -> int:
        """The most of so many layers from `start` on that a rank can hold; fewer than `needed` are as good as none."""
        return self._rooms.most(rank, self._alike[start], layers, choice, needed)

    def has_room(self, rank: int, start: int, layers: int, choice: Recompute) -> bool:
        """Whether a rank can hold so many layers from `start` on."""
        return self._rooms.fits(rank, self._alike[start], layers, choice)

    @cached_property
    def kinds(self) -> list[tuple[Ranks, int]]:
        """For each kind of layer the ranks of a model of that kind alone, and how many layers are of it."""
        layers, kinds = self.setting.architecture.layers, self.setting.kinds
        if len(kinds) == 1:
            return [(self, self.layers)]
        alone = (Ranks(setting, self.recipe, self.choices, None, self.lightest) for setting in self.setting.of_kinds)
        return [(among, layers.count(kind)) for among, kind in zip(alone, kinds, strict=True)]


def _saving(costs: ModelCosts, choices: tuple[Recompute, ...]) -> tuple[Recompute, ...]:
    """Selective recomputation of what no kernel keeps saves nothing, and takes time."""
    if len(choices) > 1 and costs.selective_is_idle:
        return tuple(choice for choice in choices if choice != "selective")
    return choices
