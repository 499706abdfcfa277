"""Listed: the search where layers have experts, devices or links differ, or energy counts.

Open what may be best (`branches.py`), drop what does not fit, price in the order of bounds; the best few meshes are
polished. docs/plan.md says what this list holds, which is less than the tree's space.
"""

from __future__ import annotations

from dataclasses import replace

from ..configuration import CORE, Configuration, Recompute
from ..cost.setting import Setting
from ..pins import Pins
from .bound import Bounded
from .branches import Listed
from .feasible import none_found
from .objective import Priced, ValueOf, best_of_each_mesh, price_as
from .ordered import Searched
from .polish import CHOICES, polish, polishable
from .request import Progress, Request
from .space import light_operations, recomputations
from .spread import spread_variants

POLISHED = 3
"""How many of the best distinct meshes are polished."""


def by_list(request: Request, setting: Setting, progress: Progress | None) -> Searched:
    """The best listed configurations. Raises InputError when none is legal, InfeasibleError when none fits."""
    listed = Listed(request, setting, request.measure(setting))
    bound = listed.run(progress)
    if not listed.priced:
        raise none_found(setting, request.pins, request.runnable, listed.candidates)
    ranked = _with_polished(setting, request.pins, listed.priced, listed.value_of)
    return Searched(setting, tuple(ranked), bound, listed.candidates, len(listed.priced), listed.bounded)


def _with_polished(setting: Setting, pins: Pins, priced: list[Priced], value_of: ValueOf) -> list[Priced]:
    """Best of each mesh, the first few of them polished; best first."""
    ranked = list(best_of_each_mesh(priced))
    choices = CHOICES if pins.recompute is None and pins.recompute_operations is None else recomputations(pins)

    def better_than_all(each: Bounded) -> bool:
        return value_of(each.configuration, each.bound_s) < min(one.value for one in ranked)

    for place, result in enumerate(ranked[:POLISHED]):
        spread = spread_variants(setting, pins, result.configuration, better_than_all)
        tried = list(spread) if place == 0 else []  # a list of its own to make and play: too slow for more than one
        if polishable(setting, result.configuration):
            tried += _by_rank(setting, pins, result.configuration, choices)
        if pins.logits_chunks is None and result.configuration.logits_chunks > 1:  # which memory need not ask for
            tried += [replace(each, logits_chunks=1) for each in (result.configuration, *tried)]
        for better in (price_as(setting, each, value_of) for each in tried):
            if better.value < ranked[place].value and better.predicted.fits:
                ranked[place] = better
    return sorted(ranked, key=lambda result: result.value)


def _by_rank(
    setting: Setting, pins: Pins, configuration: Configuration, choices: tuple[Recompute, ...]
) -> list[Configuration]:
    """With layers and recomputation by rank; where layers have experts some ranks may repeat cheap operations."""
    light = light_operations(setting, pins)
    if light:
        configuration, choices = replace(configuration, recompute_operations=light), recomputations(pins)
    polished = polish(setting, configuration, choices)
    if polished is None:
        return []
    uses = not light or "selective" in polished.recompute
    return [polished if uses else replace(polished, recompute_operations=CORE)]
