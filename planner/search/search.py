"""Search: the fastest (or cheapest) configuration, and the proof of how good it is.

Enumerate what is legal, drop what does not fit, bound the rest from below, then price in the order of the bounds until
the best price is within the gap of every bound that is left. No configuration of the searched space takes less than the
proof's lower bound. Equal requests give equal plans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from ...clusters.schema import Cluster
from ...errors import InputError, Problem
from ..configuration import Configuration, Mesh, levers
from ..cost.setting import Setting
from ..cost.step import price
from ..explain import Objective, explain
from ..families import architecture
from ..frameworks.framework import DEFAULT, framework
from ..job import Job
from ..pins import Pins
from ..plan import MeshDegrees, ModelSpec, Plan, Prediction, Proof, RunnerUp, ScheduleChoice
from .bound import Bounded
from .feasible import Progress, infeasible, survey
from .polish import CHOICES, polish, polishable
from .space import recomputations
from .spread import spread_variants

POLISHED = 3
"""How many of the best distinct meshes are polished."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked: a plan for a model, a cluster and a job."""

    model: ModelSpec
    cluster: Cluster
    job: Job
    pins: Pins = field(default_factory=Pins)
    objective: Objective = "time"
    gap: float = 0.01
    top: int = 3  # runners-up
    runnable: bool = False  # only what the built-in runtime can execute
    framework: str = DEFAULT  # what the step is priced as


@dataclass(frozen=True, slots=True)
class Priced:
    """A configuration with its prediction and what the objective says of it (lower is better)."""

    configuration: Configuration
    predicted: Prediction
    value: float


def find_plan(request: Request, progress: Progress | None = None) -> Plan:
    """The best plan for a request.

    `progress(done, total)` is called while configurations are priced. Raises InputError when no configuration is
    legal, InfeasibleError when none fits.
    """
    started = time.perf_counter()
    _check(request)
    setting = Setting(
        architecture(request.model),
        request.cluster,
        request.job,
        every_device=request.objective == "time",
        framework=framework(request.framework),
    )
    pins, found = request.pins, survey(setting, request.pins, request.runnable)
    if not found.fitting:
        raise infeasible(setting, pins, request.runnable)
    value_of = _objective(setting, request.objective)
    priced, bound = best_first(setting, found.fitting, value_of, request.gap, request.top, progress)
    ranked = _with_polished(setting, pins, priced, value_of)
    best = ranked[0]
    lower = min(bound, best.value)
    proof = Proof(
        candidates=found.candidates,
        pruned=found.candidates - len(priced),
        lower_bound_s=lower / best.value * best.predicted.step_time_s,
        gap=1 - lower / best.value,
        seconds=time.perf_counter() - started,
    )
    return _plan(request, setting, best, ranked[1 : request.top + 1], proof)


def _check(request: Request) -> None:
    """Raises InputError where the search is asked for what cannot be."""
    found = []
    if not 0 <= request.gap < 1:  # not-a-number is not
        found.append(Problem("--gap", request.gap, "must be at least 0 and below 1", "--gap 0.01"))
    if request.top < 0:
        found.append(Problem("--top", request.top, "must be 0 or more", "--top 0"))
    if found:
        raise InputError("command line", found)


def _objective(setting: Setting, objective: Objective) -> Callable[[Configuration, float], float]:
    """From a configuration and its step time to what is minimised: seconds, or dollars a step."""
    if objective == "time":
        return lambda configuration, step_s: step_s
    unpriced = [group.name for group in setting.cluster.node_groups if group.price_per_device_hour is None]
    if unpriced:
        rule = f"node group {unpriced[0]} has no price_per_device_hour"
        raise InputError.single(setting.cluster.name, "--objective", objective, rule, "--objective time")
    return lambda configuration, step_s: step_s * setting.dollars_per_s(configuration.mesh.world)


def best_first(
    setting: Setting,
    fitting: Iterable[Bounded],
    value_of: Callable[[Configuration, float], float],
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
        result = _price(setting, each.configuration, value_of)
        priced.append(result)
        shown.add(each.configuration.mesh)
        best = min(best, result.value)
        if progress:
            progress(done + 1, len(queue))
    priced.sort(key=lambda result: result.value)
    return priced, min(bound, best)


def _price(setting: Setting, configuration: Configuration, value_of: Callable[[Configuration, float], float]) -> Priced:
    predicted = price(setting, configuration)
    return Priced(configuration, predicted, value_of(configuration, predicted.step_time_s))


def _with_polished(
    setting: Setting, pins: Pins, priced: list[Priced], value_of: Callable[[Configuration, float], float]
) -> list[Priced]:
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
        for better in (_price(setting, each, value_of) for each in tried):
            if better.value < ranked[place].value and better.predicted.fits:
                ranked[place] = better
    return sorted(ranked, key=lambda result: result.value)


def _best_of_each_mesh(priced: Iterable[Priced]) -> Iterator[Priced]:
    seen: set[Mesh] = set()
    for result in priced:
        if result.configuration.mesh not in seen:
            seen.add(result.configuration.mesh)
            yield result


def _plan(request: Request, setting: Setting, best: Priced, others: list[Priced], proof: Proof) -> Plan:
    configuration = best.configuration
    compared = [(other.configuration, other.predicted, other.value / best.value - 1) for other in others]
    return Plan(
        model=request.model,
        cluster=request.cluster,
        job=request.job,
        framework=request.framework,
        mesh=_degrees(configuration.mesh),
        schedule=_schedule(configuration),
        stage_layers=configuration.stage_layers,
        microbatch=configuration.microbatch,
        **levers(configuration),
        predicted=best.predicted,
        proof=proof,
        why=explain(setting, configuration, best.predicted, proof, compared, request.objective),
        runners_up=tuple(_runner_up(other, best) for other in others),
    )


def _runner_up(other: Priced, best: Priced) -> RunnerUp:
    configuration = other.configuration
    return RunnerUp(
        mesh=_degrees(configuration.mesh),
        schedule=_schedule(replace(configuration, actions=())),  # those of the plan itself
        zero=configuration.zero,
        microbatch=configuration.microbatch,
        recompute=configuration.recompute,
        step_time_s=other.predicted.step_time_s,
        peak_memory_bytes=max(other.predicted.peak_memory_bytes),
        slower_by=other.value / best.value - 1,
    )


def _degrees(mesh: Mesh) -> MeshDegrees:
    return MeshDegrees(pp=mesh.pp, dp=mesh.dp, cp=mesh.cp, tp=mesh.tp, ep=mesh.ep, etp=mesh.etp)


def _schedule(configuration: Configuration) -> ScheduleChoice:
    return ScheduleChoice(
        name=configuration.schedule,
        vpp=configuration.vpp,
        microbatches=configuration.microbatches,
        in_flight=configuration.in_flight,
        actions=configuration.actions,
    )
