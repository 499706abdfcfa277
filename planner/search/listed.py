"""Listed: the search where layers have experts, devices or links differ, or energy counts.

Enumerate what is legal, drop what does not fit, bound the rest, then price in the order of the bounds; the best few
meshes are polished. docs/plan.md says what this list holds, which is less than the tree's space.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..configuration import Mesh
from ..cost.setting import Setting
from ..pins import Pins
from .bound import Bounded
from .feasible import infeasible, survey
from .objective import Priced, ValueOf, best_of_each_mesh, price_as
from .ordered import Searched
from .polish import CHOICES, polish, polishable
from .request import Progress, Request
from .space import recomputations
from .spread import spread_variants

POLISHED = 3
"""How many of the best distinct meshes are polished."""


def by_list(request: Request, setting: Setting, progress: Progress | None) -> Searched:
    """The best listed configurations. Raises InputError when none is legal, InfeasibleError when none fits."""
    pins, found = request.pins, survey(setting, request.pins, request.runnable)
    if not found.fitting:
        raise infeasible(setting, pins, request.runnable)
    value_of = request.measure(setting)
    priced, bound = best_first(setting, found.fitting, value_of, request.gap, request.top, progress)
    ranked = _with_polished(setting, pins, priced, value_of)
    return Searched(setting, tuple(ranked), bound, found.candidates, len(priced))


def best_first(
    setting: Setting,
    fitting: Iterable[Bounded],
    value_of: ValueOf,
    gap: float,
    top: int,
    progress: Progress | None = None,
) -> tuple[list[Priced], float]:
    """Price in the order of the bounds. Returns what was priced, best first, and a bound on everything in `fitting`.

    Goes on until the gap is proven, and then until `top` other meshes have a price each.
    """
    queue = sorted(
        ((value_of(each.configuration, each.bound_s), order, each) for order, each in enumerate(fitting)),
        key=lambda entry: entry[:2],
    )
    priced: list[Priced] = []
    best, bound, shown = float("inf"), float("inf"), set[Mesh]()
    for done, (lower, _, each) in enumerate(queue):
        proven = lower >= best * (1 - gap)
        if proven:
            bound = min(bound, lower)
            if len(shown) > top:
                break
            if each.configuration.mesh in shown:
                continue
        result = price_as(setting, each.configuration, value_of)
        priced.append(result)
        shown.add(each.configuration.mesh)
        best = min(best, result.value)
        if progress:
            progress(done + 1, len(queue))
    priced.sort(key=lambda result: result.value)
    return priced, min(bound, best)


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
            polished = polish(setting, result.configuration, choices)
            tried += [] if polished is None else [polished]
        if pins.logits_chunks is None and result.configuration.logits_chunks > 1:  # which memory need not ask for
            tried += [replace(each, logits_chunks=1) for each in (result.configuration, *tried)]
        for better in (price_as(setting, each, value_of) for each in tried):
            if better.value < ranked[place].value and better.predicted.fits:
                ranked[place] = better
    return sorted(ranked, key=lambda result: result.value)
