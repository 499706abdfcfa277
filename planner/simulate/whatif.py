"""What-if: a plan with some of its fields changed, and the rest kept consistent.

What follows from other fields, unless a setting names it too:

    dp                     from the number of devices: dp = devices in use / (pp x cp x tp); a plan that used
                           every device of its cluster goes on doing so, and so does one whose `devices` are set
    schedule.microbatches  from the batch: microbatches = global batch / (dp x microbatch)
    microbatch             likewise, where schedule.microbatches is set
    stage_layers           from pp, vpp and the layers of the model: as even as they go
    recompute              one word for all pipeline ranks, where all agreed before
    sp                     off where tp is 1
    zero                   0 where dp x cp is 1
    shares                 of another number of microbatches or replicas: anew, so that no replica is waited for
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ...errors import InputError, Problem
from ..configuration import Configuration, Mesh, Recompute
from ..cost.setting import Setting
from ..families import architecture
from ..frameworks.framework import framework
from ..legality import expert_problems
from ..legality import problems as illegal
from ..legality.fields import in_plan
from ..model import Architecture
from ..plan import Plan
from ..rank_map import kept
from ..rank_map import problems as map_problems
from ..search.partition import even_split
from ..search.shares import fair_shares, replica_times
from ..search.visits import routing_problems
from .draft import Draft
from .scenario import Scenario


def apply_settings(plan: Plan, settings: Sequence[str]) -> Scenario:
    """A plan with `field=value` settings applied in order. Raises InputError with every problem of them.

    A value is absolute, with its unit where the field has one (`96 GiB`), or relative (`0.5x`).
    """
    if not settings:
        if broken := list(map_problems(plan)):
            raise InputError("plan", broken)
        _check(plan, plan.configuration, "plan")
        return Scenario.of(plan)
    draft = Draft(plan)
    for text in settings:
        draft.set(text)
    changed_plan = draft.parsed()
    every_device = draft.counts_devices or uses_every_device(plan)
    configuration = _consistent(plan, changed_plan, draft.named, every_device)
    _check(changed_plan, configuration, "settings", every_device=every_device)
    rank_map = kept(changed_plan.cluster, plan.rank_map, configuration.mesh.world)
    return replace(Scenario.of(changed_plan), configuration=configuration, rank_map=rank_map)


def _check(plan: Plan, configuration: Configuration, source: str, every_device: bool = False) -> None:
    """Raise InputError with every rule that a configuration of the plan's model, cluster and job breaks."""
    rank_map = kept(plan.cluster, plan.rank_map, configuration.mesh.world)
    executed = framework(plan.framework)
    setting = Setting(_shape(plan), plan.cluster, plan.job, every_device, executed, rank_map=rank_map)
    _check_precision(setting)
    broken = illegal(setting, configuration)
    broken += expert_problems(setting, configuration, plan.placement, plan.token_homes)
    if plan.routing is not None:
        broken += routing_problems(setting, configuration, plan.routing)
    if broken:
        raise InputError(source, map(in_plan, broken))


def _check_precision(setting: Setting) -> None:
    try:
        _ = setting.device
    except InputError as error:
        raise InputError(error.source, map(in_plan, error.problems)) from None


def _shape(plan: Plan) -> Architecture:
    try:
        return architecture(plan.model)
    except InputError as error:
        raise InputError("settings", [replace(p, field=f"model.config.{p.field}") for p in error.problems]) from None


def uses_every_device(plan: Plan) -> bool:
    """False for a plan that found fewer devices cheaper."""
    return plan.configuration.mesh.world == plan.cluster.num_devices


def _consistent(before: Plan, after: Plan, named: Collection[str], every_device: bool) -> Configuration:
    """The configuration of a changed plan, with what follows from other fields brought up to date."""
    problems: list[Problem] = []
    given = after.configuration
    world = after.cluster.num_devices if every_device else before.configuration.mesh.world
    mesh = _mesh(after, world, named, problems)
    batch = _given_shares if given.shares else _batch
    microbatch, microbatches = batch(after, mesh, named, problems)
    configuration = replace(
        given,
        mesh=mesh,
        microbatch=microbatch,
        microbatches=microbatches,
        stage_layers=_stage_layers(given, len(_shape(after).layers), named),
        recompute=_recompute(given),
        sp=given.sp and (mesh.tp > 1 or "sp" in named),
        zero=given.zero if mesh.dp * mesh.cp > 1 or "zero" in named else 0,
    )
    if problems:
        raise InputError("settings", problems)
    return configuration if "shares" in named else _with_shares(after, configuration)


def _mesh(after: Plan, world: int, named: Collection[str], problems: list[Problem]) -> Mesh:
    mesh = after.configuration.mesh
    if "mesh.dp" in named:
        return mesh
    model_ranks = mesh.pp * mesh.cp * mesh.tp
    if world % model_ranks:
        rule = f"pp x cp x tp must divide the {world} devices in use"
        problems.append(Problem("mesh", f"{mesh.pp} x {mesh.cp} x {mesh.tp}", rule, _divisors_near(world, model_ranks)))
    return replace(mesh, dp=max(1, world // model_ranks))


def _batch(after: Plan, mesh: Mesh, named: Collection[str], problems: list[Problem]) -> tuple[int, int]:
    """Microbatch and microbatches whose product over all pipelines is the global batch."""
    batch, microbatch, microbatches = after.job.global_batch, after.microbatch, after.schedule.microbatches
    if "schedule.microbatches" in named and "microbatch" in named:
        return microbatch, microbatches
    name, given = ("microbatches", microbatches) if "schedule.microbatches" in named else ("microbatch", microbatch)
    follows, left = divmod(batch, mesh.dp * given)
    if left or not follows:
        unit = mesh.dp * given
        rule = f"must be a multiple of dp x {name} = {mesh.dp} x {given}"
        problems.append(
            Problem("job.global_batch", batch, rule, f"job.global_batch={max(1, round(batch / unit)) * unit}")
        )
        follows = max(1, follows)
    return (follows, microbatches) if name == "microbatches" else (microbatch, follows)


def _given_shares(after: Plan, mesh: Mesh, named: Collection[str], problems: list[Problem]) -> tuple[int, int]:
    """Microbatch and most microbatches where replicas have shares."""
    microbatches = after.schedule.microbatches if "schedule.microbatches" in named else max(after.shares)
    return after.microbatch, microbatches


def _with_shares(after: Plan, configuration: Configuration) -> Configuration:
    """Shares that no longer suit the batch or the replicas are made anew."""
    total, dp = after.job.global_batch // configuration.microbatch, configuration.mesh.dp
    if not configuration.shares or (sum(configuration.shares) == total and len(configuration.shares) == dp):
        return configuration
    if total < dp:
        return configuration  # illegal, which is told with the other problems
    rank_map = kept(after.cluster, after.rank_map, configuration.mesh.world)
    setting = Setting(_shape(after), after.cluster, after.job, rank_map=rank_map)
    shares = fair_shares(replica_times(setting, configuration), total)
    return replace(configuration, shares=shares, microbatches=max(shares))


def _stage_layers(given: Configuration, layers: int, named: Collection[str]) -> tuple[int, ...]:
    stages = given.stages
    if any(name.startswith("stage_layers") for name in named):
        return given.stage_layers
    if len(given.stage_layers) == stages and sum(given.stage_layers) == layers:
        return given.stage_layers
    return even_split(layers, stages)


def _recompute(given: Configuration) -> tuple[Recompute, ...]:
    return given.recompute[:1] * given.mesh.pp if len(set(given.recompute)) == 1 else given.recompute


def _divisors_near(world: int, wanted: int) -> str:
    divisors = [degree for degree in range(1, world + 1) if world % degree == 0]
    below = max(degree for degree in divisors if degree <= wanted)
    above = min((degree for degree in divisors if degree >= wanted), default=world)
    return f"a product of {below}" + (f" or {above}" if above != below else "")
