"""What the runtime cannot execute, found before any process group is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import InputError, Problem
from ..planner.cost.setting import Setting
from ..planner.families import architecture
from ..planner.legality import problems as illegal
from ..planner.legality import runtime_problems
from ..planner.legality.fields import in_plan
from ..planner.plan import Plan
from .blocks.shape import FAMILIES, rope_parameters, with_defaults


def problems(plan: Plan, world_size: int) -> list[Problem]:
    """Everything that stands between this plan and a run on `world_size` processes, in the words of a plan file."""
    return [*_world(plan, world_size), *_configuration(plan), *_blocks(with_defaults(plan.model.config))]


def _world(plan: Plan, world_size: int) -> Iterator[Problem]:
    world = plan.configuration.mesh.world
    if world != world_size:
        yield Problem("WORLD_SIZE", world_size, f"the plan's mesh needs {world} processes", f"{world} processes")


def _configuration(plan: Plan) -> Iterator[Problem]:
    """What the tables of legality say of the plan's own model, cluster and job."""
    try:
        setting = Setting(architecture(plan.model), plan.cluster, plan.job, every_device=False)
    except InputError as error:
        yield from (replace(problem, field=f"model.config.{problem.field}") for problem in error.problems)
        return
    for problem in illegal(setting, plan.configuration) + runtime_problems(setting, plan.configuration):
        yield in_plan(problem)


def _blocks(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Details of a config.json that the planner has no need of, and the blocks have."""
    if config.get("model_type") not in FAMILIES:
        return
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if key not in config:
            yield Problem(f"model.config.{key}", None, "is required")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        yield Problem("model.config.hidden_act", config["hidden_act"], "only silu runs yet")
    if config.get("attention_dropout"):
        yield Problem("model.config.attention_dropout", config["attention_dropout"], "dropout does not run yet", "0.0")
    yield from _rope(config)


def _rope(config: Mapping[str, Any]) -> Iterator[Problem]:
    rope = rope_parameters(config)
    if rope["rope_type"] not in ("default", "llama3"):
        yield Problem("model.config.rope_scaling", rope["rope_type"], "only default and llama3 scaling run yet")
    elif rope["rope_type"] == "llama3":
        for key in ("factor", "low_freq_factor", "high_freq_factor"):
            if not isinstance(rope.get(key), int | float):
                yield Problem(f"model.config.rope_scaling.{key}", rope.get(key), "is required by llama3 scaling")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        yield Problem("model.config.partial_rotary_factor", rope["partial_rotary_factor"], "must be 1", "1.0")
