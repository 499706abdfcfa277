"""Search: the fastest (or cheapest) configuration, and the proof of how good it is.

Branch and bound (`best_first.py`) over a tree of configurations (`tree.py`). No configuration of the space that
docs/plan.md describes takes less than the proof's lower bound. Equal requests give equal plans.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from ..configuration import Mesh
from ..cost.setting import Setting
from ..families import architecture
from ..frameworks.framework import framework
from ..plan import Plan, Proof
from .answer import plan_of
from .best_first import Progress, Search
from .feasible import none_found
from .objective import Priced, measure
from .request import Request, check
from .tree import Tree


def find_plan(request: Request, progress: Progress | None = None) -> Plan:
    """The best plan for a request.

    `progress(done, total)` is called while configurations are priced. Raises InputError when no configuration is
    legal, InfeasibleError when none fits.
    """
    started = time.perf_counter()
    check(request)
    setting = Setting(
        architecture(request.model),
        request.cluster,
        request.job,
        every_device=request.objective == "time",
        framework=framework(request.framework),
    )
    tree = Tree(setting, request.pins, request.runnable)
    search = Search(setting, tree, measure(setting, request.objective), request.gap, progress)
    search.run()
    if not search.priced:
        raise none_found(setting, request.pins, request.runnable, tree.candidates)
    lower, candidates, bounded = search.bound, tree.candidates, tree.bounded
    search.more_meshes(request.top + 1)
    ranked = list(_best_of_each_mesh(sorted(search.priced, key=lambda result: result.value)))
    best = ranked[0]
    lower = min(lower, best.value)
    proof = Proof(
        candidates=max(candidates, len(search.priced)),
        pruned=max(0, candidates - len(search.priced)),
        bounded=bounded,
        lower_bound_s=lower / best.value * best.predicted.step_time_s,
        gap=1 - lower / best.value,
        seconds=time.perf_counter() - started,
    )
    return plan_of(request, setting, best, ranked[1 : request.top + 1], proof)


def _best_of_each_mesh(priced: Iterable[Priced]) -> Iterator[Priced]:
    seen: set[Mesh] = set()
    for result in priced:
        if result.configuration.mesh not in seen:
            seen.add(result.configuration.mesh)
            yield result
