"""Head-wise sharded attention in the runtime: what heads read, on meshes, in a recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sparse_ranks
import torch
from families import GEMMA2
from harness import run_ranks
from plans import LLAMA, make_plan
from training_ranks import run_training

from meshwright.errors import InputError
from meshwright.kernels.attention import attention
from meshwright.kernels.facts.sparse import Pattern
from meshwright.kernels.flexible import Masks
from meshwright.kernels.masks import written_out
from meshwright.planner.plan import Plan
from meshwright.runtime.attention_recipe import S2Recipe
from meshwright.runtime.blocks import sparse
from meshwright.runtime.blocks.attend import Scoring
from meshwright.runtime.blocks.shape import read_shape
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.recipe_checks import attention_problems
from meshwright.runtime.run_folder import differences, open_run

S2: dict[str, Any] = {"block": 16, "local_blocks": 1, "stride": 2}


@pytest.mark.parametrize("documents", [False, True])
def test_heads_read_their_shards(documents: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients beside attention with the mask written out; some rows at a time."""
    monkeypatch.setattr(sparse, "_ROWS", 24)
    pattern = Pattern(block=16, local=1, stride=2, heads_per_key=2)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, heads, 70, 8, generator=generator, dtype=torch.float64) for heads in (4, 2, 2)]
    numbers = torch.tensor([[0] * 30 + [1] * 40, [0] * 55 + [1] * 15]) if documents else None
    rule, each = sparse.rule_of(pattern, numbers), torch.arange(70)
    mask = written_out(rule, 2, 4, each, each)
    found, expected = [[x.clone().requires_grad_() for x in inputs] for _ in range(2)]
    one = sparse.SparseCore(Scoring(), pattern, Masks())(*found, numbers)
    two, _ = attention(*expected, mask, scale=8**-0.5)
    torch.testing.assert_close(one, two)
    slope = torch.randn(one.shape, generator=generator, dtype=torch.float64)
    for x, y in zip(torch.autograd.grad(one, found, slope), torch.autograd.grad(two, expected, slope), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize(
    "options",
    [{"tp": 2, "sp": True}, {"tp": 4}, {"pp": 2, "dp": 2, "microbatch": 1}, {"recompute": "selective"}],
    ids=str,
)
def test_meshes_train_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    """A rank of tensor parallelism has the shards of its own heads."""
    config, sizes = {**LLAMA, "num_hidden_layers": 2, "max_position_embeddings": 64}, {"seq_len": 64, "global_batch": 4}
    settings = S2Recipe.model_validate({**S2, "dense_every": 0})
    alone = run_ranks(1, sparse_ranks.losses, make_plan(config, **sizes), settings)[0]
    plan = make_plan(config, **{**sizes, **options})
    for found in run_ranks(plan.configuration.mesh.world, sparse_ranks.losses, plan, settings):
        assert found == pytest.approx(alone, rel=1e-5)
    dense = run_ranks(1, sparse_ranks.losses, make_plan(config, **sizes), None)[0]
    assert dense != pytest.approx(alone, rel=1e-5)


def test_a_run_is_told_in_the_recipe(tmp_path: Path) -> None:
    """And what is left out does not count as model FLOPs."""
    (tmp_path / "text.txt").write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(2000)))
    settings = {"steps": 2, "data": str(tmp_path / "text.txt"), "lr": 3e-3, "attention": "s2", "s2": S2}
    plan = make_plan({**LLAMA, "num_hidden_layers": 2}, seq_len=64, microbatch=4)
    recipe = Recipe.model_validate(settings)
    run_ranks(1, run_training, tmp_path / "run", plan, recipe)
    [_, last] = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    from meshwright.runtime.report import _flops, _saved_flops, peak_flops

    saved = _saved_flops(plan, recipe)
    assert 0 < saved < _flops(plan)
    assert last["mfu"] == pytest.approx((_flops(plan) - saved) / last["step_time_s"] / peak_flops(plan))
    with pytest.raises(InputError, match="attention"):
        open_run(tmp_path / "run", plan, Recipe.model_validate({**settings, "attention": "dense", "s2": None}))


def test_shards_that_are_the_default_may_be_written_out() -> None:
    plan = make_plan(LLAMA, seq_len=64)
    old, same, other = (
        Recipe.model_validate({"steps": 1, "attention": "s2", **each})
        for each in ({}, {"s2": {"block": 128}}, {"s2": {"block": 256}})
    )
    assert differences(plan, plan, old, same) == []
    assert [problem.field for problem in differences(plan, plan, old, other)] == ["recipe.s2"]


def test_saved_flops_are_those_of_pairs_that_nobody_reads() -> None:
    """Two products of two FLOPs a pair and entry, once forward and twice backward, in the layers that are sparse."""
    shape = read_shape(LLAMA)
    settings = S2Recipe.model_validate({**S2, "dense_every": 2})
    each = torch.arange(64)
    seen = written_out(sparse.rule_of(settings.pattern(shape), None), 1, shape.heads, each, each)
    hidden = shape.heads * 64 * 65 // 2 - int(seen.sum())
    assert [settings.sparse(index) for index in range(5)] == [False, True, False, True, False]
    assert settings.saved_flops(shape, 64) == 3 * 2 * 4 * shape.head_dim * hidden


def refused(plan: Plan, **settings: Any) -> list[str]:
    recipe = Recipe.model_validate({"steps": 1, "attention": "s2", **settings})
    return [f"{problem.field}: {problem}" for problem in attention_problems(plan, recipe)]


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        ({}, {"s2": {**S2, "stride": 3}}, "s2.stride: .*more than the 2 key-value heads"),
        ({}, {"s2": {**S2, "dense_heads": 2}}, "s2.dense_heads: .*leaves none sparse"),
        ({}, {}, "s2.local_blocks: .*nothing would be sparse"),
        ({}, {"s2": {**S2, "local_blocks": 4}}, "s2.local_blocks: .*nothing would be sparse"),
        ({}, {"s2": {**S2, "dense_every": 1}}, "s2.dense_every: .*every layer dense"),
        ({"cp": 2}, {"s2": S2}, "attention: .*context parallelism"),
        ({}, {"s2": S2, "compile": True}, "attention: .*not compiled"),
        ({}, {"s2": S2, "attention": "dense"}, "s2: .*attention is dense"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], settings: dict[str, Any], expected: str) -> None:
    assert refused(make_plan(LLAMA, seq_len=64), s2=S2) == []
    assert refused(make_plan(LLAMA, seq_len=64), s2={**S2, "stride": 3, "dense_heads": 1}) == []
    found = refused(make_plan(LLAMA, seq_len=64, **options), **settings)
    assert any(re.match(expected, each) for each in found), found


def test_models_with_windows_and_caps_are_refused() -> None:
    found = refused(make_plan({**GEMMA2, "sliding_window": 16}, seq_len=64), s2=S2)
    assert len([each for each in found if each.startswith("attention")]) == 2
