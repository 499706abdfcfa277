"""Plans that the runtime cannot execute are named, all problems at once, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plans import LLAMA, make_plan

from meshwright.planner.plan import MeshDegrees, Plan
from meshwright.runtime.checks import problems
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.recipe_checks import recipe_problems
from meshwright.runtime.run_folder import RunFolder

SLIDING = {"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": True}


def fields(plan: Plan, world: int | None = None) -> set[str]:
    found = problems(plan, plan.configuration.mesh.world if world is None else world)
    assert all(problem.rule for problem in found)
    return {problem.field for problem in found}


@pytest.mark.parametrize(
    "options",
    [{}, {"tp": 4}, {"pp": 2, "schedule": "interleaved", "vpp": 2}, {"pp": 5}, {"dp": 4, "zero": 3}],
    ids=str,
)
def test_good_plans_pass(options: dict[str, Any]) -> None:
    assert fields(make_plan(LLAMA, **options)) == set()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mesh": MeshDegrees(cp=2)}, "mesh"),
        ({"cp_ulysses": 2}, "cp_ulysses"),
        ({"mesh": MeshDegrees(dp=2)}, "mesh"),
        ({"mesh": MeshDegrees(dp=2, ep=2)}, "mesh.ep"),
        ({"swap_layers": 1}, "swap_layers"),
        ({"swap_layers": 2, "offload": 0.5}, "offload"),
        ({"dp_replicate": 2}, "dp_replicate"),
        ({"recompute": ("none", "none")}, "recompute"),
        ({"stage_layers": (4,)}, "stage_layers"),
        ({"stage_layers": (2, 3)}, "stage_layers"),
        ({"microbatch": 3}, "microbatch"),
    ],
    ids=str,
)
def test_configurations_that_do_not_run(changes: dict[str, Any], field: str) -> None:
    assert field in fields(make_plan(LLAMA).model_copy(update=changes))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"tp": 3}, "mesh.tp"),
        ({"tp": 2, "sp": True, "seq_len": 31}, "sp"),
        ({"precision": "fp8"}, "job.precision"),
        ({"schedule": "1f1b", "vpp": 2, "pp": 2}, "schedule.vpp"),
        ({"schedule": "interleaved", "vpp": 2}, "schedule.name"),
        ({"schedule": "interleaved", "vpp": 2, "pp": 2, "microbatch": 8}, "mesh.pp"),
        ({"pp": 2, "dp": 2, "zero": 3}, "zero"),
        ({"zero": 1}, "zero"),
        ({"dp": 4, "dp_replicate": 3}, "dp_replicate"),
        ({"dp": 4, "dp_replicate": 4}, "dp_replicate"),
        ({"dp": 4, "dp_replicate": 2, "zero": 0}, "dp_replicate"),
        ({"dp": 2, "swap_layers": 2}, "swap_layers"),
        ({"pp": 2, "swap_layers": 2}, "swap_layers"),
    ],
    ids=str,
)
def test_options_that_do_not_run(options: dict[str, Any], field: str) -> None:
    assert field in fields(make_plan(LLAMA, **options))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_type": "mamba"}, "model.config.model_type"),
        ({"model_type": "mistral"}, None),
        ({"model_type": "mistral", "sliding_window": 16}, None),
        ({**SLIDING, "max_window_layers": 2}, None),
        ({"model_type": "gpt2", "n_layer": 5, "n_embd": 64, "n_head": 4}, None),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "model.config.use_bidirectional_attention"),
        ({"hidden_act": "quick_gelu"}, "model.config.hidden_act"),
        ({"partial_rotary_factor": 0.5}, "model.config.partial_rotary_factor"),
        ({"model_type": "phi3", "partial_rotary_factor": 0.5}, None),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}}, "model.config.rope_scaling"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "model.config.rope_scaling"),
        (
            {"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 1}},
            "model.config.rope_scaling.high_freq_factor",
        ),
        ({"vocab_size": None}, "model.config.vocab_size"),
    ],
    ids=str,
)
def test_models_that_do_not_run(changes: dict[str, Any], field: str | None) -> None:
    assert fields(make_plan({**LLAMA, **changes})) == (set() if field is None else {field})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"attention_dropout": 0.1}, "model.config.attention_dropout"),
        ({"model_type": "gpt2", "n_layer": 5}, "model.config.attn_pdrop"),
        ({"model_type": "gpt2", "n_layer": 5, "attn_pdrop": 0.0}, None),
    ],
)
def test_attention_weights_are_not_dropped_out(changes: dict[str, Any], field: str | None, tmp_path: Path) -> None:
    plan = make_plan({**LLAMA, **changes})
    found = [problem.field for problem in recipe_problems(plan, Recipe(steps=1), RunFolder(tmp_path))]
    assert found == ([] if field is None else [field])
    assert recipe_problems(plan, Recipe(steps=1, dropout=False), RunFolder(tmp_path)) == []


def test_all_problems_are_reported_together() -> None:
    plan = make_plan({**LLAMA, "hidden_act": "mish"}, precision="fp8").model_copy(update={"swap_layers": 5})
    assert fields(plan, world=3) == {"WORLD_SIZE", "swap_layers", "job.precision", "model.config.hidden_act"}
