"""Ranks: what each pipeline rank of a recipe can do in how much time, and what it has room for.

Asked rank by rank, since ends, microbatches in flight and devices may differ; equal questions are answered once.
Seconds and bytes of several virtual stages count as if their layers were spread evenly over them: no other way takes
less. Where layers differ, ranks with several stages are asked about layers of one kind at a time.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from ..configuration import Configuration, Recompute
from ..cost.blocks import Block
from ..cost.data_parallel import layer_collectives_s, owned, rank_after_s
from ..cost.footprint import rank_memory
from ..cost.memory import Held as Parameters
from ..cost.setting import Setting
from ..cost.spread import passes_of
from ..cost.stage import range_s, transfer_s
from ..model import Layer
from ..schedule import CUSTOM
from ..schedule.builder import Held
from ..schedule.table import held_of, splits
from .partition import alike


class Growing:
    """Seconds by number of layers, from none on; what nobody asked for is not made. They never fall."""

    def __init__(self, seconds: Callable[[int], float], most: int):
        self._seconds, self._most = seconds, most
        self._found = [-math.inf]

    def at(self, layers: int) -> float:
        while len(self._found) <= layers:
            self._found.append(self._seconds(len(self._found)))
        return self._found[layers]

    def up_to(self, limit_s: float) -> int:
        """The most layers that take no longer."""
        while self._found[-1] <= limit_s and len(self._found) <= self._most:
            self._found.append(self._seconds(len(self._found)))
        return bisect_right(self._found, limit_s) - 1


Known = dict[tuple[int, bool, bool, Recompute, bool], Growing]
"""Seconds by number of layers, of ranks that are alike: first stage's kind (or how many stages), with embedding, with
head, recomputation, halves of backwards."""


class Ranks:
    """The pipeline ranks of a recipe, whose split and recomputation are open. `choices` are what a rank may
    recompute, the fastest first; of these, what saves nothing is left out."""

    def __init__(
        self,
        setting: Setting,
        recipe: Configuration,
        choices: tuple[Recompute, ...],
        known: Known | None = None,
        lightest: Configuration | None = None,
    ):
        self.setting, self.recipe = setting, recipe
        self.lightest = lightest or recipe  # what memory is asked of
        self.choices = _saving(setting, recipe, choices)
        self.count, self.places = recipe.mesh.pp, recipe.placement
        self.plain = self.places == tuple(range(self.count))  # one stage a rank, in their order
        self.layers = len(setting.architecture.layers)
        self.most = self.layers - len(self.places) + 1  # of one virtual stage: the others have one each
        self.halves = splits(recipe)
        self.whole = not self.halves and recipe.schedule != CUSTOM
        self._alike = alike(setting.architecture.layers)
        self._known: Known = {} if known is None else known  # of recipes that share out a microbatch alike
        self._growing: dict[tuple[int, int, Recompute], Growing] = {}
        self._rooms: dict[tuple[object, ...], tuple[int, int]] = {}  # layers that fit, and that do not
        self._guess: dict[tuple[int, Recompute], int] = {}
        self._leads: dict[tuple[int, int], tuple[float, float]] = {}

    @cached_property
    def hop_s(self) -> float:
        return transfer_s(self.setting, self.recipe)

    @cached_property
    def piece_s(self) -> tuple[float, float]:
        """The least time in which the weights of a layer are gathered and its gradients reduced, where nothing hides
        either."""
        kinds = self.setting.costs(self.recipe).kinds
        found = [layer_collectives_s(self.setting, self.recipe, block.held) for block in kinds]
        overlaps = self.recipe.zero != 1 or self.setting.framework.overlaps_gather
        return min(gather for gather, _ in found) if overlaps else 0.0, min(reduction for _, reduction in found)

    @cached_property
    def late_s(self) -> float:
        """Of the reductions of a layer, where they all follow the last backward."""
        late = self.recipe.zero < 2 and not self.setting.framework.overlaps_reduce
        return self.piece_s[1] if late else 0.0

    @cached_property
    def after_s(self) -> float:
        """Optimizer and offload of a rank that owns no more than the mean."""
        if self.recipe.swap_layers:
            return 0.0
        costs = self.setting.costs(self.recipe)
        ends = costs.embedding.held + costs.head.held
        mean = Parameters((costs.dense[-1] + ends.dense) / self.count, (costs.expert[-1] + ends.expert) / self.count)
        return rank_after_s(self.setting, self.recipe, owned(mean, self.recipe))

    @cached_property
    def firsts(self) -> list[int]:
        """The first virtual stage of each rank."""
        return [min(self.recipe.stages_of(rank)) for rank in range(self.count)]

    def in_time(self, rank: int, start: int, choice: Recompute, spare_s: float) -> int:
        """The most layers from `start` on with which one microbatch through all stages of a rank takes no longer."""
        if spare_s == math.inf:
            return self.layers - self._alike[start]
        return self._busy(rank, start, choice).up_to(spare_s)

    def busy_s(self, rank: int, start: int, choice: Recompute, layers: int) -> float:
        """Seconds of one microbatch through all stages of a rank that has so many layers."""
        return self._busy(rank, start, choice).at(layers)

    def alone_s(self, layers: int, choice: Recompute) -> float:
        """Device seconds of one microbatch through so many layers."""
        costs = self.setting.costs(self.recipe)
        return costs.forward[layers] + costs.backward[choice][layers]

    def _busy(self, rank: int, start: int, choice: Recompute) -> Growing:
        asked = rank, self._alike[start], choice
        if asked not in self._growing:
            self._growing[asked] = self._busy_like(rank, start, choice)
        return self._growing[asked]

    def _busy_like(self, rank: int, start: int, choice: Recompute) -> Growing:
        """Of all ranks that are alike."""
        first, last, chunks = self.firsts[rank] == 0, self.places[-1] == rank, self.chunks(rank)
        key = self._alike[start] if self.plain else -chunks, first, last, choice, self.halves
        if key not in self._known:
            one = self._of_one_stage(self._alike[start], first, last, choice)
            several = one if self.plain else self._of_several(first, last, choice, chunks)
            self._known[key] = several
        return self._known[key]

    def _of_one_stage(self, start: int, first: bool, last: bool, choice: Recompute) -> Growing:
        """Layers in one stage, one after another from `start` on."""
        costs, passes_s = self.setting.costs(self.recipe), self.passes_s
        ends = ([costs.embedding] if first else []) + ([costs.head] if last else [])
        return Growing(
            lambda layers: self._stage_s(range(start, start + layers), choice, ends) + passes_s, self.layers - start
        )

    def _of_several(self, first: bool, last: bool, choice: Recompute, chunks: int) -> Growing:
        """Layers spread evenly over stages, and what ends add at the least: seconds of a stage are convex in its
        layers."""
        bare, ends_s, passes_s = self._of_one_stage(0, False, False, choice), 0.0, self.passes_s
        for here in ((True, False),) * first + ((False, True),) * last:
            whole = self._of_one_stage(0, *here, choice)
            ends_s += max(0.0, min(whole.at(few) - bare.at(few) for few in range(1, self.most + 1)))

        def seconds(layers: int) -> float:
            few, more = divmod(layers, chunks)
            held = (more, few + 1), (chunks - more, few)
            return (
                sum(stages * (bare.at(each) - passes_s) for stages, each in held if stages and each) + ends_s + passes_s
            )

        return Growing(seconds, self.layers)

    def _stage_s(self, layers: range, choice: Recompute, ends: list[Block]) -> float:
        """The least of a forward and a backward, whole or in halves."""
        forward, backward, inputs, weights = range_s(self.setting, self.recipe, layers, choice, ends)
        return forward + (min(backward, inputs + weights) if self.halves else backward)

    @cached_property
    def passes_s(self) -> float:
        """Of a spread vocabulary, before the backward of each microbatch."""
        passes = passes_of(self.setting, self.recipe)
        return 0.0 if passes is None else passes.logits_s + passes.gradients_s

    def chunks(self, rank: int) -> int:
        """Virtual stages of a rank."""
        return self._chunks[rank]

    @cached_property
    def _chunks(self) -> list[int]:
        return [len(self.recipe.stages_of(rank)) for rank in range(self.count)]

    @cached_property
    def least_s(self) -> float:
        """One microbatch through everything, on all ranks together: device time alone."""
        costs, choice = self.setting.costs(self.recipe), self.choices[0]
        ends = sum(block.forward_s + block.backward_s("none") for block in (costs.embedding, costs.head))
        return costs.forward[-1] + costs.backward[choice][-1] + ends + self.count * self.passes_s

    @cached_property
    def forward_share(self) -> float:
        """The least part that forwards have of what stands before a stage."""
        costs = self.setting.costs(self.recipe)
        pairs = [(block.forward_s, block.backward_s(self.choices[0])) for block in costs.kinds]
        pairs += [(costs.embedding.forward_s, costs.embedding.backward_s("none"))]
        return min(forward / (forward + backward) for forward, backward in pairs if forward + backward)

    def lead_s(self, rank: int, before: int) -> tuple[float, float]:
        """Seconds forward and backward of one microbatch through the first `before` layers and from rank to rank, at
        the least: device time alone."""
        key = rank, before
        if key not in self._leads:
            costs, hops = self.setting.costs(self.recipe), self.firsts[rank] * self.hop_s
            forward = costs.forward[before] + costs.embedding.forward_s
            backward = costs.backward[self.choices[0]][before] + costs.embedding.backward_s("none")
            self._leads[key] = (forward + hops, backward + hops) if rank and before else (0.0, 0.0)
        return self._leads[key]

    def with_room(self, rank: int, start: int, layers: int, choice: Recompute) -> int:
        """The most of so many layers from `start` on that a rank can hold. More layers never need less."""
        first, last, kind = rank == self.places[0], rank == self.places[-1], self._alike[start]
        key = self._held[rank], first, last, kind, choice
        low, high = self._rooms.get(key, (0, self.layers + 1))
        guess = self._guess.get((kind, choice), layers)  # what the last rank had room for
        if rank > 1 and not last and self._held[rank - 1].covers(self._held[rank]):  # and this one holds no more
            low = max(low, self._rooms.get((self._held[rank - 1], first, last, kind, choice), (0, 0))[0])
        hints = [layers, guess + 1, guess]
        while low < layers and high - low > 1:
            trial = hints.pop() if hints else (low + min(high, layers + 1)) // 2
            if low < trial < high and trial <= layers:
                fits = self._has_room(rank, kind, trial, choice)
                low, high = (trial, high) if fits else (low, trial)
        self._rooms[key] = low, high
        self._guess[kind, choice] = low
        return min(low, layers)

    def has_room(self, rank: int, start: int, layers: int, choice: Recompute) -> bool:
        """Whether a rank can hold so many layers from `start` on."""
        first, last, kind = rank == self.places[0], rank == self.places[-1], self._alike[start]
        key = self._held[rank], first, last, kind, choice
        low, high = self._rooms.get(key, (0, self.layers + 1))
        if low < layers < high:
            fits = self._has_room(rank, kind, layers, choice)
            low, high = (layers, high) if fits else (low, layers)
            self._rooms[key] = low, high
        return layers <= low

    def _has_room(self, rank: int, start: int, layers: int, choice: Recompute) -> bool:
        memory = rank_memory(self.setting, self._trial(rank, start, layers, choice), rank)
        return memory.total <= self.setting.memory_limit_bytes

    @cached_property
    def _held(self) -> list[Held]:
        return [held_of(self.lightest, rank) for rank in range(self.count)]

    def _trial(self, rank: int, start: int, layers: int, choice: Recompute) -> Configuration:
        """Only what stands at `rank` matters to its memory."""
        stages, counts = self.lightest.stages_of(rank), [0] * len(self.lightest.placement)
        if stages[0] > 0:
            counts[0] = start
        few, more = divmod(layers, len(stages))
        for place, stage in enumerate(stages):
            counts[stage] = few + (place < more)
        return replace(self.lightest, stage_layers=tuple(counts), recompute=(choice,) * self.count)

    @cached_property
    def kinds(self) -> list[tuple[Ranks, int]]:
        """For each kind of layer the ranks of a model of that kind alone, and how many layers are of it."""
        model = self.setting.architecture
        if len(self.setting.kinds) == 1:
            return [(self, self.layers)]
        return [(self._only(kind), model.layers.count(kind)) for kind in self.setting.kinds]

    def _only(self, kind: Layer) -> Ranks:
        model = replace(self.setting.architecture, layers=(kind,) * self.layers)
        return Ranks(
            replace(self.setting, architecture=model, _costs={}),
            self.recipe,
            self.choices,
            None,
            self.lightest,
        )


def _saving(setting: Setting, recipe: Configuration, choices: tuple[Recompute, ...]) -> tuple[Recompute, ...]:
    """Selective recomputation of what no kernel keeps saves nothing, and takes time."""
    kinds = setting.costs(recipe).kinds
    if len(choices) > 1 and all(block.selective_bytes >= block.activation_bytes for block in kinds):
        return tuple(choice for choice in choices if choice != "selective")
    return choices
