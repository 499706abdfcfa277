"""The answer: from the best of what was priced to a Plan."""

from __future__ import annotations

from dataclasses import replace

from ..configuration import Configuration, Mesh, levers
from ..cost.setting import Setting
from ..explain import explain
from ..plan import MeshDegrees, Plan, Proof, RunnerUp, ScheduleChoice
from .objective import Priced
from .request import Request


def plan_of(request: Request, setting: Setting, best: Priced, others: list[Priced], proof: Proof) -> Plan:
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
