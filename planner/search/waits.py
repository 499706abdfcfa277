"""Waits: what data parallelism and the optimizer add to the ranks of a recipe at the least, whatever its split.

None of it depends on the schedule. Several recipes together wait as long as whichever of them waits least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from ..configuration import Configuration
from ..cost.data_parallel import layer_collectives_s, owned, rank_after_s
from ..cost.memory import Held
from ..cost.setting import Setting


class Waits(NamedTuple):
    """Seconds of a recipe: of the weights of a layer gathered and of its gradients reduced, at the least, where nothing
    hides either; of the reductions of a layer where they all follow the last backward; and of optimizer and offload of
    a rank that owns no more than the mean."""

    gather_s: float
    reduce_s: float
    late_s: float
    after_s: float


def waits_of(setting: Setting, recipe: Configuration) -> Waits:
    """Of one recipe."""
    found = [layer_collectives_s(setting, recipe, block.held) for block in setting.costs(recipe).kinds]
    reduce_s = min(reduction for _, reduction in found)
    gathers_first = recipe.zero != 1 or setting.framework.overlaps_gather
    return Waits(
        gather_s=min(gather for gather, _ in found) if gathers_first else 0.0,
        reduce_s=reduce_s,
        late_s=reduce_s if recipe.zero < 2 and not setting.framework.overlaps_reduce else 0.0,
        after_s=_after_s(setting, recipe),
    )


def least(setting: Setting, recipes: Iterable[Configuration], offloads: Collection[float]) -> Waits:
    """No recipe of these waits less, whichever part of its optimizer states it offloads."""
    found = []
    for recipe in recipes:
        own = waits_of(setting, recipe)
        others = (_after_s(setting, replace(recipe, offload=part)) for part in offloads if part != recipe.offload)
        found.append(own._replace(after_s=min([own.after_s, *others])))
    return Waits(*map(min, zip(*found, strict=True)))


def _after_s(setting: Setting, recipe: Configuration) -> float:
    if recipe.swap_layers:
        return 0.0
    costs, ranks = setting.costs(recipe), recipe.mesh.pp
    ends = costs.embedding.held + costs.head.held
    mean = Held((costs.dense[-1] + ends.dense) / ranks, (costs.expert[-1] + ends.expert) / ranks)
    return rank_after_s(setting, recipe, owned(mean, recipe))
