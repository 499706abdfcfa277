"""Explanation: what a chosen plan would lose otherwise, what it waits for, and what would make it better.

Alternatives are priced as the plan was. What binds: the plan's own configuration with one resource ten percent better,
priced again; of memory a search, since it makes other configurations possible. What to buy: a search each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...clusters.schema import Cluster
from ...errors import InputError, MeshwrightError
from ..configuration import Configuration
from ..cost.setting import Setting
from ..cost.step import price
from ..plan import Breakdown, Plan
from .neighbours import Neighbour, neighbours, word
from .objective import Priced, price_as
from .request import Progress, Request
from .resources import MEMORY, NODES, RATES, Resource
from .search import find_plan

NEAREST = 5
BETTER = 1.1
"""Of a resource, to see whether the plan waits for it."""
BOUGHT = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """The plan with one choice made otherwise; `worse` in what is minimised (0.05: five percent; below 0: better).

    `more_s`: seconds more of the step by cause, those less below 0. `short_bytes`: what the fullest device lacks.
    """

    choice: str
    change: str
    worse: float
    step_time_s: float
    more_s: dict[str, float]
    short_bytes: int = 0

    @property
    def fits(self) -> bool:
        return self.short_bytes == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What ten percent more of a resource gain; `of`: what shrinks most in the step, or how the plan changes."""

    resource: str
    words: str
    gain: float  # 0.05: as many tokens in five percent less of what is minimised
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """The best plan with something bought; `times`: how many more tokens in as much of what is minimised."""

    bought: str
    times: float | None  # None where no plan was found
    step_time_s: float | None
    change: str  # how that plan differs


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`nearest`: single choices, the least worse first; `too_large`: those that would be better and do not fit."""

    nearest: tuple[Alternative, ...]
    too_large: tuple[Alternative, ...]
    meshes: tuple[Alternative, ...]
    binding: tuple[Binding, ...]
    purchases: tuple[Purchase, ...]

    def to_json(self) -> dict[str, Any]:
        """Lists of what the fields say."""
        return {name: [asdict(each) for each in getattr(self, name)] for name in self.__dataclass_fields__}


def check_explainable(request: Request) -> None:
    """Raises InputError for a request whose plans are not explained."""
    if request.job.lengths is not None:
        rule = "other choices are not compared where sequences differ in length"
        raise InputError.single("command line", "--explain", None, rule, "without --explain, or without --lengths")


def explanation(request: Request, plan: Plan, progress: Progress = lambda done, total: None) -> Explanation:
    """Of a plan that was found for a request. `progress(done, total)` counts parts of the answer. Raises InputError as
    `check_explainable` does."""
    check_explainable(request)
    request = replace(
        request,
        cluster=plan.cluster,
        rank_map=plan.rank_map,
        deadline_s=None,
        objective=_objective(request),
        top=0,
        tokens=None,
    )  # other meshes, other clusters: the same question
    setting, total = request.setting(), 3 + len(_shopping(request))
    chosen = price_as(setting, plan.configuration, request.measure(setting))
    near, large = _alternatives(request, setting, chosen)
    progress(1, total)
    binding = tuple(sorted(_binding(request, chosen), key=lambda each: -each.gain))
    progress(2, total)
    purchases = []
    for name, changed in _shopping(request):
        purchases.append(_purchase(request, chosen, name, changed))
        progress(2 + len(purchases), total)
    progress(total, total)
    return Explanation(
        nearest=near,
        too_large=large,
        meshes=tuple(_mesh(plan, place) for place in range(min(NEAREST, len(plan.runners_up)))),
        binding=binding,
        purchases=tuple(sorted(purchases, key=lambda each: -(each.times or 0.0))),
    )


def _objective(request: Request) -> Any:
    """With the number of devices chosen, time is what is left to minimise."""
    return "time" if request.objective == "devices" else request.objective


def _alternatives(
    request: Request, setting: Setting, chosen: Priced
) -> tuple[tuple[Alternative, ...], tuple[Alternative, ...]]:
    """The nearest of each choice, those that fit before; and what memory alone forbids."""
    measure = request.measure(setting)
    found: list[Alternative] = []
    for each in neighbours(setting, request.pins, chosen.configuration, request.runnable):
        found.append(_alternative(each, price_as(setting, each.configuration, measure), chosen))
    found.sort(key=lambda each: each.worse)
    fitting = list(_first_of_each_choice(each for each in found if each.fits))
    large = _first_of_each_choice(each for each in found if not each.fits and each.worse < 0)
    return tuple(fitting[:NEAREST]), tuple(large)[:NEAREST]


def _first_of_each_choice(found: Iterable[Alternative]) -> Iterator[Alternative]:
    seen: set[str] = set()
    for each in found:
        if each.choice not in seen:
            seen.add(each.choice)
            yield each


def _alternative(neighbour: Neighbour, other: Priced, chosen: Priced) -> Alternative:
    predicted = other.predicted
    short = max(
        0, max(peak - limit for peak, limit in zip(predicted.peak_memory_bytes, predicted.limits_bytes, strict=True))
    )
    return Alternative(
        choice=neighbour.choice,
        change=neighbour.change,
        worse=other.value / chosen.value - 1,
        step_time_s=predicted.step_time_s,
        more_s=more_s(chosen.predicted.breakdown_s, predicted.breakdown_s),
        short_bytes=short if short or predicted.fits else 1,  # 1: it is the host that lacks
    )


def more_s(ours: Breakdown, theirs: Breakdown) -> dict[str, float]:
    """Seconds more by cause, without what is equal."""
    before, after = ours.model_dump(), theirs.model_dump()
    return {name: after[name] - before[name] for name in before if after[name] != before[name]}


def _mesh(plan: Plan, place: int) -> Alternative:
    """A runner-up: the best configuration of another mesh."""
    runner, ours = plan.runners_up[place], plan.predicted
    theirs = runner.breakdown_s or Breakdown()
    degrees = (f"{name}{degree}" for name, degree in dict(runner.mesh).items() if degree > 1)
    return Alternative(
        choice="mesh",
        change=" ".join(degrees) or "one device",
        worse=runner.slower_by,
        step_time_s=runner.step_time_s,
        more_s=more_s(ours.breakdown_s, theirs) if runner.breakdown_s else {},
    )


def _binding(request: Request, chosen: Priced) -> Iterator[Binding]:
    for resource in RATES:
        setting = replace(request, cluster=resource.better(request.cluster, BETTER)).setting()
        better = price_as(setting, chosen.configuration, request.measure(setting))
        gain = 1 - better.value / chosen.value
        shrinks = more_s(chosen.predicted.breakdown_s, better.predicted.breakdown_s)
        least = min(shrinks, key=lambda name: shrinks[name], default="")
        yield Binding(resource=resource.name, words=resource.words, gain=gain, of=least if gain > 0 else "")
    larger = _searched(replace(request, cluster=MEMORY.better(request.cluster, BETTER)))
    if larger is not None:
        gain = max(0.0, 1 - (larger.proof.value or chosen.value) / chosen.value)
        change = difference(chosen.configuration, larger.configuration) if gain else ""
        yield Binding(resource=MEMORY.name, words=MEMORY.words, gain=gain, of=change)


def _shopping(request: Request) -> list[tuple[str, Request]]:
    """What could be had, by what it is called, and the request with it."""

    def with_(resource: Resource) -> Request:
        return replace(request, cluster=resource.better(request.cluster, BOUGHT))

    names = {"compute": "twice the peak FLOP/s", "fabric": "twice the fabric", "network": "twice the network"}
    found = [(names[each.name], with_(each)) for each in RATES if each.name in names and _has(request.cluster, each)]
    found.append(("twice the memory", with_(MEMORY)))
    if _can_grow(request.cluster):
        found.append(("twice the nodes", replace(with_(NODES), rank_map=())))
    batch = request.job.model_copy(update={"global_batch": 2 * request.job.global_batch})
    return [*found, ("twice the global batch", replace(request, job=batch))]


def _has(cluster: Cluster, resource: Resource) -> bool:
    return resource.name != "network" or _joined(cluster)


def _can_grow(cluster: Cluster) -> bool:
    return cluster.exceptions.matrix is None and _joined(cluster)


def _joined(cluster: Cluster) -> bool:
    return all(group.nics is not None for group in cluster.node_groups)


def _searched(request: Request) -> Plan | None:
    try:
        return find_plan(request)
    except MeshwrightError:
        return None


def _purchase(request: Request, chosen: Priced, bought: str, changed: Request) -> Purchase:
    """With what is in hand already at the worst."""
    plan = _searched(changed)
    if plan is None or not plan.proof.value:
        return Purchase(bought=bought, times=None, step_time_s=None, change="no plan for it: see it planned alone")
    tokens = changed.job.tokens_per_step / request.job.tokens_per_step
    times = tokens * chosen.value / plan.proof.value
    held = price(changed.setting(), chosen.configuration) if changed.job == request.job else None
    if held is not None and request.objective == "time" and changed.cluster.num_devices == request.cluster.num_devices:
        times = max(times, chosen.predicted.step_time_s / held.step_time_s)
    return Purchase(
        bought=bought,
        times=times,
        step_time_s=plan.predicted.step_time_s,
        change=difference(chosen.configuration, plan.configuration),
    )


def difference(ours: Configuration, theirs: Configuration) -> str:
    """`tp 8 -> 4, recompute full -> none`; empty where they are equal but for the layers of stages."""
    found = []
    for name in ("pp", "dp", "cp", "tp", "ep", "etp"):
        a, b = getattr(ours.mesh, name), getattr(theirs.mesh, name)
        found += [f"{name} {a} -> {b}"] if a != b else []
    for name in ("schedule", "vpp", "microbatch", "zero", "sp", "cp_algorithm", "dp_replicate"):
        a, b = getattr(ours, name), getattr(theirs, name)
        same = a == b or (name in ("schedule", "vpp") and ours.mesh.pp == theirs.mesh.pp == 1)
        found += [] if same else [f"{name} {word(a)} -> {word(b)}"]
    again, anew = ("mixed" if len(set(each.recompute)) > 1 else each.recompute[0] for each in (ours, theirs))
    found += [f"recompute {again} -> {anew}"] if again != anew else []
    return ", ".join(found)
