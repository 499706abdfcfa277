"""Tree: what branches into what, and the bound of each branch; nothing below a branch is built before it is opened.

    share      a mesh and how one microbatch is shared out over it; all that is below computes that much
    roomy      the same, and recomputes what ranks have no room for even if they hold one microbatch at a time
    schedule   with its schedule: what ranks wait for, and have room for, if each has whatever suits it best of the rest
    recipe     with its ZeRO stage, copies, chunks of the loss and offloading: what ranks wait for comes to it
    limited    the same, once it is known what ranks have room for: the least bottleneck over all splits and choices
    whole      with its split and what each rank recomputes; this can be priced

A bound holds for everything below: what the pipeline takes at least, and what the mean rank does after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import groupby

from ..configuration import Configuration, Recompute
from ..cost.bound import work_bound_s
from ..cost.rank_bytes import RankBytes
from ..cost.setting import Setting
from ..cost.sharding import Sharding, sharding_of
from ..cost.step import bare_work_of, steps_s
from ..legality import is_legal, runtime_problems
from ..pins import Pins
from ..simulate.work import Work
from .bottleneck import TOLERANCE, Bottleneck, crowded_s
from .bound import Balancer, fits_devices, holds
from .ranks import Ranks
from .space import (
    count_recipes,
    in_chunks,
    lightest,
    offloads,
    recipes,
    recomputations,
    reliefs,
    relieved,
    shares,
)
from .splits import MOST_SPLITS, every_split, is_bounded, promising, with_room
from .spread import spread_share
from .tables import Tables
from .waits import Waits, least

BINDING = 3 * TOLERANCE
"""Memory binds where ranks that have only so much room take longer by this part."""


class Level(IntEnum):
    SHARE = 0
    ROOMY = 1
    SCHEDULE = 2
    RECIPE = 3
    LIMITED = 4
    UNCHECKED = 5  # whole, without a pipeline, and perhaps without room
    WHOLE = 6


@dataclass(frozen=True, slots=True)
class Node:
    """A branch: its configuration is decided as far as its level says, the rest of it is any. `bound_s`: no step of
    anything below takes less. `ranks`: of a recipe, or of all `recipes` with a schedule, what is known of them so
    far."""

    configuration: Configuration
    bound_s: float
    level: Level
    ranks: Ranks | None = None
    recipes: tuple[Configuration, ...] = ()


class Tree:
    """All configurations of a request, opened branch by branch. `candidates`: recipes seen; `bounded`: branches that
    have a bound."""

    def __init__(self, setting: Setting, pins: Pins, runnable: bool):
        self.setting, self.pins, self.runnable = setting, pins, runnable
        self.balancer, self.choices = Balancer(setting), recomputations(pins)
        self.candidates = self.bounded = 0
        self._tables: dict[tuple[Sharding, int, int], Tables] = {}
        self._crowded: dict[Configuration, float] = {}
        self._likely: dict[Configuration, Node | None] = {}
        self._works: dict[Configuration, Work] = {}

    def roots(self) -> Iterator[Node]:
        """Every way to share out a microbatch that has anything legal below."""
        for shared in shares(self.setting, self.pins):
            if not self._any_legal(shared):
                continue
            self.candidates += count_recipes(self.setting, self.pins, shared)
            yield self._node(shared, self._shared_s(shared), Level.SHARE)
            spread = spread_share(self.setting, self.pins, shared)
            if spread is not None:
                self.candidates += count_recipes(self.setting, self.pins, spread)
                yield self._node(spread, self._shared_s(spread), Level.SHARE)

    def open(self, node: Node, limit_s: float) -> Iterator[Node]:
        """The branches below a node; of those with bounds above `limit_s` nobody asks by how much."""
        branches = {
            Level.SHARE: self._roomy,
            Level.ROOMY: self._recipes,
            Level.SCHEDULE: self._together,
            Level.RECIPE: self._limited,
            Level.LIMITED: self._splits,
            Level.UNCHECKED: self._checked,
        }
        return branches[node.level](node, limit_s)

    def likely(self, root: Node) -> Node | None:
        """Of the balanced configurations of a root with 1F1B or ZB-V and the most sharding that both have, the one
        whose bound is least; None where neither fits."""
        if root.configuration not in self._likely:
            self._likely[root.configuration] = self._likely_of(root.configuration)
        return self._likely[root.configuration]

    def _likely_of(self, shared: Configuration) -> Node | None:
        listed = [each for each in recipes(self.setting, self.pins, shared) if each.dp_replicate == 1]
        best: dict[str, Configuration] = {}
        for recipe in listed or [shared]:
            if recipe.zero <= 1 and (recipe.schedule in ("1f1b", "zb-v") or not best):
                best[recipe.schedule] = recipe
        found = (self._balanced(recipe) for recipe in best.values())
        return min((node for node in found if node is not None), key=lambda node: node.bound_s, default=None)

    def _balanced(self, recipe: Configuration) -> Node | None:
        made = with_room(self.setting, self.balancer.balanced(recipe), self._choices(recipe))
        return self.whole(made) if made is not None and self._legal(made) else None

    def _node(
        self,
        configuration: Configuration,
        bound_s: float,
        level: Level,
        ranks: Ranks | None = None,
        recipes: tuple[Configuration, ...] = (),
    ) -> Node:
        self.bounded += 1
        return Node(configuration, bound_s, level, ranks, recipes)

    def _any_legal(self, shared: Configuration) -> bool:
        return self._legal(shared) or any(self._legal(each) for each in recipes(self.setting, self.pins, shared))

    def _legal(self, configuration: Configuration) -> bool:
        setting = self.setting
        return is_legal(setting, configuration) and not (self.runnable and runtime_problems(setting, configuration))

    def _shared_s(self, shared: Configuration) -> float:
        """Work of all microbatches, shared out over the pipeline ranks with nobody waiting."""
        ranks = self._ranks(shared)
        return shared.microbatches * ranks.least_s / ranks.count * (1 - 1e-11)

    def _ranks(self, recipe: Configuration, light: tuple[Configuration, ...] = (), waits: Waits | None = None) -> Ranks:
        key = sharding_of(recipe), recipe.mesh.pp, recipe.logits_chunks
        if key not in self._tables:
            self._tables[key] = Tables(self.setting, recipe)
        return Ranks(self.setting, recipe, self.choices, self._tables[key], light, waits)

    def _ranks_of(self, node: Node) -> Ranks:
        return node.ranks or self._ranks(node.configuration)

    def _roomy(self, node: Node, limit_s: float) -> Iterator[Node]:
        """What ranks have room for at all, whatever the recipe."""
        shared = node.configuration
        if shared.mesh.pp == 1:
            yield replace(node, level=Level.ROOMY)
            return
        if shared not in self._crowded:
            light = lightest(self.setting, self.pins, shared)
            self._crowded[shared] = crowded_s(self._ranks(shared, light))
        bound_s = max(node.bound_s, self._crowded[shared])
        if bound_s < math.inf:
            yield self._node(shared, bound_s, Level.ROOMY)

    def _recipes(self, node: Node, limit_s: float) -> Iterator[Node]:
        """In a pipeline those with the same schedule together."""
        shared = node.configuration
        listed = [each for each in recipes(self.setting, self.pins, shared) if self._legal(each)]
        if shared.mesh.pp == 1:
            yield from (self._recipe(recipe, node.bound_s) for recipe in listed)
            return
        waits: Waits | None = None
        for _, alike in groupby(listed, key=lambda each: (each.schedule, each.vpp)):
            waits = waits or least(self.setting, listed, offloads(self.pins, shared))
            yield self._scheduled(tuple(alike), waits, node.bound_s)

    def _scheduled(self, alike: tuple[Configuration, ...], waits: Waits, at_least_s: float) -> Node:
        """Recipes with one schedule, before any is looked at alone: they wait as long as whichever waits least, with
        the room of whichever needs least."""
        first = alike[0]
        ranks = self._ranks(first, relieved(self.setting, self.pins, first), waits)
        bound_s = Bottleneck(ranks, limited=False).relaxed_s() + waits.after_s
        return self._node(first, max(at_least_s, bound_s), Level.SCHEDULE, ranks, alike)

    def _together(self, node: Node, limit_s: float) -> Iterator[Node]:
        """The recipes of a schedule, where they may stay below the limit."""
        assert node.ranks is not None
        after_s = node.ranks.waits.after_s
        least_s = Bottleneck(node.ranks, limited=True).least_s(limit_s - after_s)
        if limit_s - after_s <= least_s < math.inf:
            yield replace(node, bound_s=max(node.bound_s, least_s + after_s, limit_s))
        elif least_s < math.inf:
            yield from (self._recipe(recipe, max(node.bound_s, least_s + after_s)) for recipe in node.recipes)

    def _recipe(self, recipe: Configuration, at_least_s: float) -> Node:
        ranks = self._ranks(recipe)
        if recipe.mesh.pp == 1:
            return self._node(recipe, max(at_least_s, self._shared_s(recipe) + ranks.waits.after_s), Level.RECIPE)
        bound_s = Bottleneck(ranks, limited=False).relaxed_s() + ranks.waits.after_s
        return self._node(recipe, max(at_least_s, bound_s), Level.RECIPE, ranks)

    def _limited(self, node: Node, limit_s: float) -> Iterator[Node]:
        """What ranks have room for; and where they have too little, the recipes that need less."""
        recipe = node.configuration
        if recipe.mesh.pp == 1:
            if self._any_fits(recipe):
                yield from self._uniform(node)
                yield from self._reliefs(recipe, None, limit_s)
            return
        ranks = self._ranks_of(node)
        after_s = ranks.waits.after_s
        least_s = Bottleneck(ranks, limited=True).least_s(limit_s - after_s)
        if least_s < math.inf:
            yield self._node(recipe, max(node.bound_s, least_s + after_s), Level.LIMITED, ranks)
        yield from self._reliefs(recipe, ranks, limit_s)

    def _any_fits(self, recipe: Configuration) -> bool:
        """Whether a device has room for a recipe without a pipeline, or for one that needs less."""
        light = in_chunks(self.setting, self.pins, replace(recipe, offload=max(offloads(self.pins, recipe))))
        made = (replace(each, recompute=(choice,)) for each in light for choice in reversed(self.choices))
        return any(fits_devices(self.setting, each) for each in made)

    def binds(self, recipe: Configuration, ranks: Ranks | None = None) -> bool:
        """Whether memory binds: what would be fastest if ranks had room for anything has no room."""
        if recipe.mesh.pp == 1:
            return not holds(self.setting, replace(recipe, recompute=(self.choices[0],)))
        ranks = ranks or self._ranks(recipe)
        free_s = Bottleneck(ranks, limited=False).least_s(math.inf)
        return not Bottleneck(ranks, limited=True).feasible(free_s * (1 + BINDING))

    def _reliefs(self, recipe: Configuration, ranks: Ranks | None, limit_s: float) -> Iterator[Node]:
        """Where memory binds, the recipes that need less; what is fastest with the least memory is looked at first."""
        if recipe.offload or recipe.logits_chunks != (self.pins.logits_chunks or 1):
            return  # is one
        listed, least_s = [each for each in reliefs(self.setting, self.pins, recipe) if self._legal(each)], 0.0
        if recipe.mesh.pp > 1 and listed:
            light = max(listed, key=lambda each: (each.logits_chunks, each.offload))
            least_s = Bottleneck(self._ranks(recipe, (light,)), limited=True).least_s(limit_s)
        if listed and least_s < limit_s and self.binds(recipe, ranks):
            self.candidates += len(listed)
            for relief in listed:
                yield self._recipe(relief, least_s)

    def _uniform(self, node: Node) -> Iterator[Node]:
        """Without a pipeline only recomputation is left to choose."""
        ranks = self._ranks(node.configuration)
        for choice in ranks.choices:
            made = replace(node.configuration, recompute=(choice,))
            alone_s = made.microbatches * ranks.least_of(choice) * (1 - 1e-11)
            yield self._node(made, max(node.bound_s, alone_s), Level.UNCHECKED)

    def _choices(self, recipe: Configuration) -> tuple[Recompute, ...]:
        return self._ranks(recipe).choices

    def _checked(self, node: Node, limit_s: float) -> Iterator[Node]:
        if holds(self.setting, node.configuration):
            yield self.whole(node.configuration, node.bound_s)

    def whole(self, configuration: Configuration, at_least_s: float = 0.0, limit_s: float = 0.0) -> Node:
        """With the bound of a configuration of which nothing is open; it may be priced where that is below the
        limit."""
        work = bare_work_of(self.setting, configuration)
        bound_s = max(at_least_s, work_bound_s(configuration, work))
        if bound_s < limit_s:
            self._works[configuration] = work
        return self._node(configuration, bound_s, Level.WHOLE)

    def _splits(self, node: Node, limit_s: float) -> Iterator[Node]:
        recipe = node.configuration
        if not is_bounded(recipe) and self.splits_of(recipe) <= MOST_SPLITS:
            yield from self.every_split(node, limit_s)
            return
        ranks = self._ranks_of(node)
        bottleneck = Bottleneck(ranks, limited=True)
        for configuration in promising(self.setting, self.balancer, bottleneck, node.bound_s - ranks.waits.after_s):
            if self._legal(configuration):
                yield self.whole(configuration, node.bound_s, limit_s)

    def splits_of(self, recipe: Configuration) -> int:
        """How many splits of layers a recipe has: each stage has a layer or more."""
        return math.comb(len(self.setting.architecture.layers) - 1, len(recipe.placement) - 1)

    def every_split(self, node: Node, limit_s: float = 0.0) -> Iterator[Node]:
        """All that is below a branch, each split with the fastest recomputation that fits: a slower one is slower."""
        recipe, layers = node.configuration, len(self.setting.architecture.layers)
        choices, held = self._choices(recipe), RankBytes(self.setting, recipe)
        for split in every_split(layers, len(recipe.placement)):
            made = with_room(self.setting, replace(recipe, stage_layers=split), choices, held)
            if made is not None and self._legal(made):
                yield self.whole(made, node.bound_s, limit_s)

    def steps_s(self, configuration: Configuration) -> Iterator[float]:
        """Seconds of a step of something whole, behind what it takes at least, where that is another."""
        work = self._works.pop(configuration, None) or bare_work_of(self.setting, configuration)
        return steps_s(self.setting, configuration, work)
