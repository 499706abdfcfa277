"""Search: the fastest (or cheapest) configuration, and the proof of how good it is.

For models without experts on one kind of device with regular links, priced by formulas alone, branch and bound (`best_first.py`) over a tree of
configurations (`tree.py`); else over a list (`listed.py`). No configuration of the space that docs/plan.md describes
takes less than the proof's lower bound. Equal requests give equal plans.
"""

from __future__ import annotations

import time

from ..cost.setting import Setting
from ..plan import Plan, Proof
from .answer import plan_of
from .best_first import Search
from .feasible import none_found
from .listed import by_list
from .objective import best_of_each_mesh
from .ordered import Searched, in_best_order
from .plainer import plainer
from .request import Progress, Request, check
from .routed import settled
from .tree import Tree


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
    made = settled(request, in_best_order(request, lambda setting: searched(request, setting, progress)))
    found = made.found
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
    return made.plan(plan_of(made.request, found.setting, best, list(found.ranked[1 : request.top + 1]), proof))


def searched(request: Request, setting: Setting, progress: Progress | None = None) -> Searched:
    """The best configurations of a setting. Raises as `find_plan` does."""
    plain = not setting.is_mixed and not setting.has_experts and setting.measured is None
    if plain and request.objective != "energy" and not request.pins.shares:
        return _by_tree(request, setting, progress)
    return by_list(request, setting, progress)


def _by_tree(request: Request, setting: Setting, progress: Progress | None) -> Searched:
    tree = Tree(setting, request.pins, request.runnable)
    value_of = request.measure(setting)
    search = Search(setting, tree, value_of, request.gap, progress)
    search.run()
    if not search.priced:
        raise none_found(setting, request.pins, request.runnable, tree.candidates)
    lower, candidates = search.bound, max(tree.candidates, len(search.priced))
    search.more_meshes(request.top + 1)
    best, *others = best_of_each_mesh(sorted(search.priced, key=lambda result: result.value))
    ranked = sorted((plainer(setting, request.pins, best, value_of), *others), key=lambda result: result.value)
    lower, priced = min(lower, best.value), min(candidates, len(search.priced))
    return Searched(setting, tuple(ranked), lower, candidates, priced, tree.bounded)
