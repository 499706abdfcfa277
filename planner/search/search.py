"""Search: the fastest (or cheapest) configuration, and the proof of how good it is.

For models without experts on one kind of device with regular links, branch and bound (`best_first.py`) over a tree of
configurations (`tree.py`). Where layers have experts, devices or links differ, or energy counts: enumerate what is
legal, drop what does not fit, bound the rest, then price in the order of the bounds. No configuration of the space that
docs/plan.md describes takes less than the proof's lower bound. Equal requests give equal plans.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..configuration import Mesh
from ..cost.setting import Setting
from ..pins import Pins
from ..plan import Plan, Proof
from .answer import plan_of
from .best_first import Search
from .bound import Bounded
from .feasible import infeasible, none_found, survey
from .objective import Priced, ValueOf, price_as
from .ordered import Searched, in_best_order
from .plainer import plainer
from .polish import CHOICES, polish, polishable
from .request import Progress, Request, check
from .space import recomputations
from .spread import spread_variants
from .tree import Tree

POLISHED = 3
"""How many of the best distinct meshes are polished."""


def find_plan(request: Request, progress: Progress | None = None) -> Plan:
    """The best plan for a request.

    `progress(done, total)` is called while configurations are priced. Raises InputError when no configuration is
    legal, InfeasibleError when none fits.
    """
    if request.job.lengths is not None:
        from ..lengths.choose import find_mix  # which uses the rooms of this search

        return find_mix(request, progress)
    started = time.perf_counter()
    check(request)
    found = in_best_order(request, lambda setting: searched(request, setting, progress))
    best, lower = found.ranked[0], min(found.lower, found.ranked[0].value)
    proof = Proof(
        candidates=found.candidates,
        pruned=found.candidates - found.priced,
        bounded=found.bounded,
        lower_bound_s=lower / best.value * best.predicted.step_time_s,
        gap=1 - lower / best.value,
        orders=found.orders,
        seconds=time.perf_counter() - started,
    )
    return plan_of(request, found.setting, best, list(found.ranked[1 : request.top + 1]), proof)


def searched(request: Request, setting: Setting, progress: Progress | None = None) -> Searched:
    """The best configurations of a setting. Raises as `find_plan` does."""
    if not setting.is_mixed and not setting.has_experts and request.objective != "energy" and not request.pins.shares:
        return _by_tree(request, setting, progress)
    pins, found = request.pins, survey(setting, request.pins, request.runnable)
    if not found.fitting:
        raise infeasible(setting, pins, request.runnable)
    value_of = request.measure(setting)
    priced, bound = best_first(setting, found.fitting, value_of, request.gap, request.top, progress)
    ranked = _with_polished(setting, pins, priced, value_of)
    return Searched(setting, tuple(ranked), bound, found.candidates, len(priced))


def _by_tree(request: Request, setting: Setting, progress: Progress | None) -> Searched:
    tree = Tree(setting, request.pins, request.runnable)
    value_of = request.measure(setting)
    search = Search(setting, tree, value_of, request.gap, progress)
    search.run()
    if not search.priced:
        raise none_found(setting, request.pins, request.runnable, tree.candidates)
    lower, candidates = search.bound, max(tree.candidates, len(search.priced))
    search.more_meshes(request.top + 1)
    best, *others = _best_of_each_mesh(sorted(search.priced, key=lambda result: result.value))
    ranked = sorted((plainer(setting, request.pins, best, value_of), *others), key=lambda result: result.value)
    lower, priced = min(lower, best.value), min(candidates, len(search.priced))
    return Searched(setting, tuple(ranked), lower, candidates, priced, tree.bounded)


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
    ranked = list(_best_of_each_mesh(priced))
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


def _best_of_each_mesh(priced: Iterable[Priced]) -> Iterator[Priced]:
    seen: set[Mesh] = set()
    for result in priced:
        if result.configuration.mesh not in seen:
            seen.add(result.configuration.mesh)
            yield result
