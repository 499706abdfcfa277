"""The answer: from the best of what was priced to a Plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ...units import format_seconds
from ..configuration import Configuration, Mesh, levers
from ..cost.energy import busy_of, step_energy
from ..cost.setting import Setting
from ..cost.step import price
from ..explain import explain
from ..goal import SECONDS_PER_DAY, AtRisk, Training
from ..plan import MeshDegrees, Plan, Proof, RunnerUp, ScheduleChoice
from .objective import Priced
from .request import Request


def plan_of(request: Request, setting: Setting, best: Priced, others: list[Priced], proof: Proof) -> Plan:
    """The best of what was priced as a plan, and others as its runners-up."""
    if request.at_risk:  # they were priced on devices with less memory than theirs
        setting = request.setting(whole=True).mapped(setting.rank_map)
        best, *others = (replace(each, predicted=price(setting, each.configuration)) for each in (best, *others))
    configuration = best.configuration
    worse = [_worse(request, setting, other, best) for other in others]
    late = [_judged_s(request, other) > request.step_limit_s for other in others]
    compared = [
        (o.configuration, o.predicted, *each) for o, each in zip(others, zip(worse, late, strict=True), strict=True)
    ]
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
        rank_map=_rank_map(setting, configuration.mesh.world),
        predicted=best.predicted,
        proof=_in_unit(request, best, proof),
        goal=request.goal,
        training=_training(request, setting, best),
        at_risk=_at_risk(request, best),
        why=(
            *_held(request, best),
            *explain(setting, configuration, best.predicted, proof, compared, request.objective),
        ),
        runners_up=tuple(_runner_up(other, each) for other, each in zip(others, worse, strict=True)),
    )


def _rank_map(setting: Setting, world: int) -> tuple[int, ...]:
    """Empty where ranks lie on the first devices in their order."""
    rank_map = setting.rank_map[:world]
    return () if rank_map == tuple(range(world)) else rank_map


def _in_unit(request: Request, best: Priced, proof: Proof) -> Proof:
    """The proof in what the objective counts."""
    told = {"objective": request.objective, "value": best.value, "lower_bound": best.value * (1 - proof.gap)}
    return proof.model_copy(update=told)


def _training(request: Request, setting: Setting, best: Priced) -> Training | None:
    """What the whole run takes, where its tokens are known."""
    if request.tokens is None:
        return None
    mesh, step_s = best.configuration.mesh, best.predicted.step_time_s
    steps = request.tokens / request.job.tokens_per_step
    used = setting.devices_used(mesh.world)
    prices = [group.price_per_device_hour for group, _ in used]
    energy = step_energy(used, mesh, step_s, busy_of(setting, best.configuration))
    return Training(
        tokens=request.tokens,
        days=steps * step_s / SECONDS_PER_DAY,
        days_at_risk=steps * _judged_s(request, best) / SECONDS_PER_DAY if request.at_risk else None,
        price=None if None in prices else steps * step_s * setting.dollars_per_s(mesh.world),
        kwh=None if energy is None else energy.kwh(steps),
    )


def _judged_s(request: Request, priced: Priced) -> float:
    """The step time that deadlines are held against."""
    return request.at_risk.step_time_s(priced.predicted) if request.at_risk else priced.predicted.step_time_s


def _at_risk(request: Request, best: Priced) -> AtRisk | None:
    risk = request.at_risk
    if risk is None:
        return None
    step_s = risk.step_time_s(best.predicted)
    return AtRisk(probability=risk.probability, step_time_s=step_s, memory_share=risk.memory_share)


def _held(request: Request, best: Priced) -> Iterator[str]:
    """What a plan chosen against its intervals holds to."""
    held = _at_risk(request, best)
    if held is not None:
        step = f"With probability {held.probability:g} a step takes at most {format_seconds(held.step_time_s)}"
        yield f"{step}; it plans for {held.memory_share:.0%} of the memory."


def _worse(request: Request, setting: Setting, other: Priced, best: Priced) -> float:
    """How much more of what is minimised, whatever the deadline: 0.05 is five percent."""
    plain = replace(request.measure(setting), limit_s=math.inf)
    theirs, ours = (plain.of(each.configuration, each.predicted) for each in (other, best))
    return theirs / ours - 1


def _runner_up(other: Priced, worse: float) -> RunnerUp:
    configuration = other.configuration
    return RunnerUp(
        mesh=_degrees(configuration.mesh),
        schedule=_schedule(replace(configuration, actions=())),  # those of the plan itself
        zero=configuration.zero,
        microbatch=configuration.microbatch,
        recompute=configuration.recompute,
        step_time_s=other.predicted.step_time_s,
        peak_memory_bytes=max(other.predicted.peak_memory_bytes),
        slower_by=worse,
        breakdown_s=other.predicted.breakdown_s,
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
