"""What is recorded of routing, counted as load and saved, whatever the mesh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import expert_workers
import pytest
import torch
import workers
from expert_oracle import reference_model
from harness import run_ranks
from moe_families import DEEPSEEK_V2, DEEPSEEK_V3, MIXTRAL
from plans import make_plan
from workers import batches

from meshwright.errors import InputError
from meshwright.runtime.blocks.moe_shape import read_moe
from meshwright.runtime.config_checks import config_problems
from meshwright.runtime.expert_recipe import ExpertRecipe
from meshwright.runtime.recipe import Recipe
from meshwright.schema import parse

COLUMNS = {"step", "stage", "block", "layer", "rank", "num_tokens", "topk", "top_indices"}


def chosen_by_transformers(config: dict[str, Any]) -> dict[int, torch.Tensor]:
    """Experts int64 [sequences, seq_len, top_k] of the first batch, by layer."""
    model, found = reference_model(config), {}
    for index, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(lambda _, __, out, i=index: found.__setitem__(i, out[2]))
    (batch,) = batches(config["vocab_size"], 32, 8, 1)
    with torch.no_grad():
        model(batch[:, :-1])
    return {index: experts.view(8, 32, -1) for index, experts in found.items()}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_recorded_choices_are_those_of_transformers(tmp_path: Path) -> None:
    plan = make_plan(MIXTRAL, dp=2, ep=2, recompute="full")
    counts = run_ranks(2, expert_workers.record, plan, tmp_path, 2, 3)
    expected = chosen_by_transformers(MIXTRAL)
    for rank in range(2):
        found = rows(tmp_path / f"rank-{rank:05}.jsonl")
        assert all(row.keys() == COLUMNS | ({"tokens"} if row["layer"] == 0 else set()) for row in found)
        assert {row["step"] for row in found} == {2}
        assert len(found) == 3 * 2  # layers x microbatches: recomputation adds none
        for layer, experts in expected.items():
            own = [torch.tensor(row["top_indices"]) for row in found if row["layer"] == layer]
            mine = experts.chunk(2)[rank].flatten(0, 1)
            assert torch.equal(torch.cat(own).sort(-1).values, mine.sort(-1).values)
    loads = {row["layer"]: row["counts"] for row in rows(tmp_path / "loads-00.jsonl")}
    for layer, experts in expected.items():
        assert loads[layer] == torch.bincount(experts.flatten(), minlength=8).tolist() == counts[0][layer]


def test_stages_record_their_own_layers(tmp_path: Path) -> None:
    plan = make_plan(DEEPSEEK_V3, pp=2, stage_layers=(1, 2))  # the first layer is dense
    run_ranks(2, expert_workers.record, plan, tmp_path, 1, 1)
    assert not (tmp_path / "rank-00000.jsonl").exists()
    assert {row["layer"] for row in rows(tmp_path / "rank-00001.jsonl")} == {1, 2}
    assert {row["layer"] for row in rows(tmp_path / "loads-01.jsonl")} == {1, 2}


RECORDED: dict[str, dict[str, Any]] = {
    "dp2 ep2": {"dp": 2, "ep": 2, "microbatch": 1},
    "tp2 sp ep2": {"tp": 2, "sp": True, "ep": 2, "recompute": "full"},
    "cp2 ep2": {"cp": 2, "ep": 2},
    "pp2 zb-v, layers in four stages": {"config": {**MIXTRAL, "num_hidden_layers": 4}, "pp": 2, "vpp": 2,
                                        "schedule": "zb-v", "microbatch": 1},
    "pp2, the first layer is dense": {"config": DEEPSEEK_V3, "pp": 2, "stage_layers": (1, 2)},
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_ids_are_recorded_beside_what_their_tokens_chose(name: str, tmp_path: Path) -> None:
    """In the first layer with experts: of every token of the batch, whichever rank had it, as transformers chooses for
    tokens of that id."""
    options = dict(RECORDED[name])
    config = options.pop("config", MIXTRAL)
    plan = make_plan(config, **options)
    run_ranks(plan.configuration.mesh.world, expert_workers.record, plan, tmp_path, 1, 1)
    known = chosen_by_transformers(config)
    first = min(known)
    found = [row for path in tmp_path.glob("rank-*.jsonl") for row in rows(path)]
    assert {row["layer"] for row in found if "tokens" in row} == {first}
    pairs = [(token, tuple(sorted(experts))) for row in found if row["layer"] == first
             for token, experts in zip(row["tokens"], row["top_indices"], strict=True)]  # fmt: skip
    (batch,) = batches(config["vocab_size"], 32, 8, 1)
    expected = zip(batch[:, :-1].flatten().tolist(), known[first].flatten(0, 1).tolist(), strict=True)
    assert sorted(pairs) == sorted((token, tuple(sorted(experts))) for token, experts in expected)


def test_a_resumed_run_forgets_what_came_after(tmp_path: Path) -> None:
    plan = make_plan(MIXTRAL, microbatch=8)
    run_ranks(1, expert_workers.record, plan, tmp_path, 1, 3)
    run_ranks(1, expert_workers.record, plan, tmp_path, 1, 1, 2)
    assert [row["step"] for row in rows(tmp_path / "loads-00.jsonl")] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("options", [{}, {"pp": 2}, {"tp": 2, "sp": True, "ep": 2, "recompute": "full"}], ids=str)
def test_imbalance_is_that_of_the_worst_layer(options: dict[str, Any]) -> None:
    plan = make_plan(DEEPSEEK_V3, **options)
    chosen = chosen_by_transformers(DEEPSEEK_V3).values()
    counts = [torch.bincount(experts.flatten(), minlength=8).float() for experts in chosen]
    worst = max((count.max() / count.mean()).item() for count in counts)
    for found in run_ranks(plan.configuration.mesh.world, expert_workers.imbalance, plan):
        assert found == pytest.approx(worst)


@pytest.mark.parametrize("recompute", [("full", ()), ("selective", ("moe", "layernorm"))], ids=str)
def test_a_recomputation_routes_alike_and_is_not_counted(recompute: tuple[Any, tuple[str, ...]]) -> None:
    options = {"dp": 2, "ep": 2, "recompute": recompute[0], "recompute_operations": recompute[1] or ("core_attn",)}
    for seen, counted in run_ranks(2, expert_workers.choices, make_plan(DEEPSEEK_V3, **options)):
        for passes, again in seen.values():
            assert len(passes) == len(again) == 2  # microbatches
            assert passes == again
        assert counted == [8 * 32 * 3] * 2  # tokens x top_k, of both layers with experts


def test_checkpoints_move_between_expert_meshes(tmp_path: Path) -> None:
    """Weights, moments and biases: training goes on as if nothing had happened."""
    recipe = {"balance": "bias", "bias_rate": 0.05}
    before = make_plan(DEEPSEEK_V3, dp=2, ep=2, zero=1)
    expected = run_ranks(2, expert_workers.train_and_save, before, tmp_path, recipe, 2, 4)[0]
    for options in ({"tp": 2, "sp": True, "etp": 2}, {"dp": 4, "ep": 2, "zero": 3}):
        after = make_plan(DEEPSEEK_V3, **options)
        for found in run_ranks(
            after.configuration.mesh.world, expert_workers.restore_and_train, after, tmp_path, recipe, 4
        ):
            assert found == pytest.approx(expected[2:], rel=1e-5)


def test_settings_that_do_not_fit_the_model_are_refused() -> None:
    recipe = ExpertRecipe.model_validate({"balance": "bias"})
    assert [problem.field for problem in recipe.problems(read_moe(MIXTRAL))] == ["experts.balance"]
    assert [problem.field for problem in recipe.problems(None)] == ["experts"]
    assert list(recipe.problems(read_moe(DEEPSEEK_V3))) == []
    assert list(ExpertRecipe.model_validate({}).problems(read_moe(MIXTRAL))) == []


@pytest.mark.parametrize(
    ("experts", "field"),
    [({"balance": "even"}, "experts.balance"), ({"capacity_factor": 0}, "experts.capacity_factor"),
     ({"aux_los": 0.1}, "experts.aux_los"), ({"record_every": -1}, "experts.record_every")],
    ids=str,
)  # fmt: skip
def test_wrong_settings_are_named(experts: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as error:
        parse(Recipe, {"steps": 1, "experts": experts}, "recipe")
    assert [problem.field for problem in error.value.problems] == [field]


@pytest.mark.parametrize(
    ("config", "changes", "field"),
    [
        (MIXTRAL, {"router_jitter_noise": 0.1}, "router_jitter_noise"),
        (DEEPSEEK_V2, {"norm_topk_prob": True}, "norm_topk_prob"),
        (DEEPSEEK_V2, {"topk_method": "noaux_tc"}, "topk_method"),
        (DEEPSEEK_V3, {"scoring_func": "softmax"}, "scoring_func"),
        (DEEPSEEK_V3, {"n_group": 8, "topk_group": 4}, "n_group"),
    ],
    ids=str,
)
def test_routing_that_transformers_does_not_have_is_refused(
    config: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    assert list(config_problems(config)) == []
    assert [problem.field for problem in config_problems({**config, **changes})] == [f"model.config.{field}"]


def test_bf16_trains_with_float32_weights() -> None:
    exact = run_ranks(1, workers.short_run, make_plan(MIXTRAL, microbatch=8))[0][0]
    plan = make_plan(MIXTRAL, dp=2, tp=2, sp=True, ep=2, etp=2, zero=1, precision="bf16")
    for losses, dtypes in run_ranks(4, workers.short_run, plan):
        assert dtypes == {"torch.float32"}
        assert losses == pytest.approx(exact, rel=2e-2)
        assert losses != exact
