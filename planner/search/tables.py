"""Tables: seconds of one microbatch through the stages of a pipeline rank, by how many layers these have.

Made once for all recipes that share out a microbatch alike: neither schedules nor ZeRO change them, only how many
stages a rank has and whether backwards come in halves.
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import accumulate

from ..configuration import Configuration, Recompute
from ..cost.setting import Setting
from ..cost.spread import passes_of
from ..cost.stage import StageSeconds

Seconds = list[float]
"""By number of layers; they never fall, and those of no layers at all are below any limit."""
Ends = tuple[bool, bool]
"""Whether a rank has the embedding, and the head."""


class Tables:
    """The tables of one way to share out a microbatch, under one number of pipeline ranks and of chunks of the loss."""

    def __init__(self, setting: Setting, recipe: Configuration):
        self.setting, self.recipe, self.costs = setting, recipe, setting.costs(recipe)
        self.layers = len(setting.architecture.layers)
        self._one: dict[tuple[int, Ends, Recompute, bool], Seconds] = {}
        self._several: dict[tuple[int, Ends, Recompute, bool], Seconds] = {}
        self._spread: dict[tuple[int, Recompute, bool], Seconds] = {}
        self._ends: dict[tuple[Ends, Recompute, bool], Seconds] = {}

    @cached_property
    def passes_s(self) -> float:
        """Of a spread vocabulary, before the backward of each microbatch."""
        passes = passes_of(self.setting, self.recipe) if self.costs.shares else None
        return 0.0 if passes is None else passes.logits_s + passes.gradients_s

    def of_one_stage(self, start: int, ends: Ends, choice: Recompute, halves: bool) -> Seconds:
        """Layers in one stage, one after another from `start` on."""
        key = start, ends, choice, halves
        if key not in self._one:
            blocks = ([self.costs.embedding] if ends[0] else []) + ([self.costs.head] if ends[1] else [])
            stages = StageSeconds(self.setting, self.recipe, choice, blocks).growing(start, start + 1, halves)
            passes_s = self.passes_s
            if halves:
                both = [forward + min(whole, first + second) + passes_s for forward, whole, first, second in stages]
            else:
                both = [forward + whole + passes_s for forward, whole, _, _ in stages]
            self._one[key] = [-math.inf, *both]
        return self._one[key]

    def of_several(self, chunks: int, most: int, ends: Ends, choice: Recompute, halves: bool) -> Seconds:
        """Layers spread evenly over stages, each with `most` at most, and what ends add at the least: seconds of a
        stage are convex in its layers."""
        key = chunks, ends, choice, halves
        if key not in self._several:
            ends_s, passes_s = 0.0, self.passes_s
            for here in ((True, False),) * ends[0] + ((False, True),) * ends[1]:
                ends_s += self._least_of_ends(here, choice, halves)[most]
            bare = self._evenly(chunks, choice, halves)
            self._several[key] = [-math.inf, *(seconds + ends_s + passes_s for seconds in bare)]
        return self._several[key]

    def _evenly(self, chunks: int, choice: Recompute, halves: bool) -> Seconds:
        """One layer and more over so many stages, without ends and passes."""
        key = chunks, choice, halves
        if key not in self._spread:
            passes_s, bare = self.passes_s, self.of_one_stage(0, (False, False), choice, halves)
            each_s, found = [0.0, *(seconds - passes_s for seconds in bare[1:])], []
            for layers in range(1, self.layers + 1):
                few, more = divmod(layers, chunks)
                large_s = more * each_s[few + 1] if more else 0.0
                found.append(large_s + (chunks - more) * each_s[few])
            self._spread[key] = found
        return self._spread[key]

    def _least_of_ends(self, ends: Ends, choice: Recompute, halves: bool) -> Seconds:
        """What embedding or head adds at the least to a stage, by how many layers that has at most."""
        key = ends, choice, halves
        if key not in self._ends:
            bare, whole = (self.of_one_stage(0, here, choice, halves) for here in ((False, False), ends))
            more = [longer - shorter for longer, shorter in zip(whole[1:], bare[1:], strict=True)]
            self._ends[key] = [0.0, *(max(0.0, each) for each in accumulate(more, min))]
        return self._ends[key]
