"""What the runtime cannot execute, found before any process group is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import InputError, Problem
from ..planner.cost.setting import Setting
from ..planner.families import architecture
from ..planner.families.registry import FAMILIES
from ..planner.legality import expert_problems, runtime_problems
from ..planner.legality import problems as illegal
from ..planner.legality.fields import in_plan
from ..planner.lengths.predict import mix_problems
from ..planner.plan import Plan
from ..planner.rank_map import problems as map_problems
from .config_checks import config_problems
from .replica_checks import replica_problems


def problems(plan: Plan, world_size: int) -> list[Problem]:
    """Everything that stands between this plan and a run on `world_size` processes, in the words of a plan file."""
    mapped = list(map_problems(plan))
    return [
        *_world(plan, world_size),
        *(mapped or _configuration(plan)),
        *_config(plan.model.config),
        *_mix(plan),
    ]


def _world(plan: Plan, world_size: int) -> Iterator[Problem]:
    world = plan.configuration.mesh.world
    if world != world_size:
        yield Problem("WORLD_SIZE", world_size, f"the plan's mesh needs {world} processes", f"{world} processes")


def _configuration(plan: Plan) -> Iterator[Problem]:
    """What the tables of legality say of the plan's own model, cluster and job."""
    try:
        shape = architecture(plan.model)
        setting = Setting(shape, plan.cluster, plan.job, every_device=False, rank_map=plan.rank_map)
    except InputError as error:
        yield from (replace(problem, field=f"model.config.{problem.field}") for problem in error.problems)
        return
    for problem in illegal(setting, plan.configuration) + runtime_problems(setting, plan.configuration):
        yield in_plan(problem)
    wrong = expert_problems(setting, plan.configuration, plan.placement, plan.token_homes)
    yield from wrong or replica_problems(plan)


def _mix(plan: Plan) -> Iterator[Problem]:
    """Groups for sequences of different lengths: where there are such, and such that can be formed."""
    if plan.mix is None and plan.job.lengths is not None:
        rule = "a job with lengths needs the groups that a plan has for them"
        yield Problem("mix", None, rule, "meshwright plan ... --lengths")
    if plan.mix is not None and plan.job.lengths is None:
        yield Problem("job.lengths", None, "a plan with groups of several degrees needs them", "without mix")
    elif plan.mix is not None and plan.model.config.get("model_type") in FAMILIES:
        setting = Setting(architecture(plan.model), plan.cluster, plan.job, every_device=False)
        yield from mix_problems(setting, plan.configuration, plan.mix)


def _config(config: Mapping[str, Any]) -> Iterator[Problem]:
    if config.get("model_type") in FAMILIES:  # or the planner has refused it
        yield from config_problems(config)
