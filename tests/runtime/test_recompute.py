"""Recomputation: the same gradients, fewer bytes kept, and nothing run again that was not asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import families
import moe_families
import pytest
import recompute_ranks
import torch
from alive import Alive
from harness import run_ranks
from parity import assert_same
from plans import LLAMA, make_plan
from torch import Tensor
from workers import batches

from meshwright.planner.configuration import Module
from meshwright.planner.cost.activations import Kept, Shape, layer_input_bytes, layer_kept
from meshwright.planner.cost.sharding import Sharding, sharding_of
from meshwright.planner.families import architecture
from meshwright.planner.frameworks.framework import framework
from meshwright.runtime.build import build_model

CONFIG = {**LLAMA, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 1}
SHAPE = Shape(sharding=Sharding(microbatch=2), seq_len=32, element=4, keeps=framework("meshwright").keeps)
LAYER = architecture(make_plan(CONFIG).model).layers[0]
KEPT: Kept = layer_kept(LAYER, SHAPE)

OPERATIONS: list[tuple[Module, ...]] = [
    ("core_attn",),
    ("layernorm",),
    ("mlp",),
    ("core_attn", "layernorm", "mlp"),
    ("core_attn", "moe", "moe_act", "mla_up_proj"),  # a dense layer has only the first
]
AGAIN = {"core_attn": {"attention": 1}, "layernorm": {"rsqrt": 2}, "mlp": {"silu": 1, "mm": 2}}
"""The last product of a feed-forward block is not repeated: nobody needs what it made."""


@cache
def ran(**options: Any) -> tuple[int, Counter[str], tuple[Tensor, ...]]:
    """Bytes that a layer keeps between forward and backward, the operators of its backward, and its gradients."""
    layer = build_model(make_plan(CONFIG, **options), torch.device("cpu")).parts[0].model.layers["0"]  # type: ignore
    x = torch.randn(2, 32, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    layer(x)  # positions are computed once and kept for all layers
    with Alive() as alive:
        output = layer(x)
        kept = alive.bytes - output.untyped_storage().nbytes() + x.untyped_storage().nbytes()
        alive.operators.clear()
        output.square().sum().backward()
    names = (name.split(".")[1].removeprefix("_scaled_dot_product_flash_") for name in alive.operators)
    counted = Counter("attention" if name == "attention_for_cpu" else name for name in names)
    return kept, counted, (x.grad, *(p.grad for p in layer.parameters()))  # type: ignore[arg-type]


@pytest.mark.parametrize("operations", OPERATIONS, ids="+".join)
def test_selective_recomputation_is_exact(operations: tuple[Module, ...]) -> None:
    _, _, expected = ran()
    _, _, found = ran(recompute="selective", recompute_operations=operations)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("operations", [(), *OPERATIONS], ids="+".join)
def test_nothing_but_gradients_stays_after_the_backward_pass(operations: tuple[Module, ...]) -> None:
    """Nor in a cycle that only the garbage collector would find."""
    options = {"recompute": "selective", "recompute_operations": operations} if operations else {}
    layer = build_model(make_plan(CONFIG, **options), torch.device("cpu")).parts[0].model.layers["0"]  # type: ignore
    x = torch.randn(2, 32, 128, requires_grad=True)
    layer(x)
    with Alive() as alive:
        layer(x).sum().backward()
        left = alive.bytes
    assert left == sum(each.grad.untyped_storage().nbytes() for each in (x, *layer.parameters()))


@pytest.mark.parametrize("operations", [(), *OPERATIONS], ids="+".join)
def test_a_layer_keeps_what_the_planner_says(operations: tuple[Module, ...]) -> None:
    """But for a number a token and norm, which it leaves out."""
    recompute = "selective" if operations else "none"
    kept, _, _ = ran(recompute=recompute, recompute_operations=operations)
    assert kept == pytest.approx(KEPT.total - KEPT.given_up(operations), rel=0.003)


@pytest.mark.parametrize("q_lora_rank", [None, 24])
def test_up_projections_keep_their_latents(q_lora_rank: int | None) -> None:
    """As Megatron-Core's do, and the planner says: queries, keys and values are given up, and made of what stays."""
    fused = {"v_head_dim": 12}  # as wide as keys: the CPU's fused kernel keeps what it is given
    config = {**moe_families.DEEPSEEK_V2, **fused, "q_lora_rank": q_lora_rank, "num_hidden_layers": 2}
    layer = architecture(make_plan(config).model).layers[0]
    (plain, before), (kept, after) = (latent_ran(config, **each) for each in ({}, UP))
    beside = 4 * 2 * 32 * 4 * 8  # values are a view, which holds 8 entries of a key in each of 4 heads too
    assert plain - kept == layer_kept(layer, SHAPE).given_up(["mla_up_proj"]) + beside
    assert after["mm"] - before["mm"] == 2


UP: dict[str, Any] = {"recompute": "selective", "recompute_operations": ("mla_up_proj",)}


def latent_ran(config: dict[str, Any], **options: Any) -> tuple[int, Counter[str]]:
    """Bytes that the first layer keeps, and the operators of its backward."""
    layer = build_model(make_plan(config, **options), torch.device("cpu")).parts[0].model.layers["0"]  # type: ignore
    x = torch.randn(2, 32, config["hidden_size"]).requires_grad_()
    layer(x)
    with Alive() as alive:
        output = layer(x)
        kept = alive.bytes
        alive.operators.clear()
        output.square().sum().backward()
    return kept, Counter(name.split(".")[1] for name in alive.operators)


def test_full_recomputation_keeps_the_input() -> None:
    kept, _, _ = ran(recompute="full")
    assert kept == layer_input_bytes(LAYER, SHAPE)


@pytest.mark.parametrize("operations", OPERATIONS, ids="+".join)
def test_only_what_is_named_runs_again(operations: tuple[Module, ...]) -> None:
    _, plain, _ = ran()
    _, found, _ = ran(recompute="selective", recompute_operations=operations)
    more = found - plain
    expected: Counter[str] = Counter()
    for operation in operations:
        expected.update(AGAIN.get(operation, {}))
    assert {name: more[name] for name in ("attention", "rsqrt", "silu", "mm")} == {
        name: expected[name] for name in ("attention", "rsqrt", "silu", "mm")
    }


@pytest.mark.parametrize("sp", [False, True])
@pytest.mark.parametrize("operations", [(), ("layernorm",), ("mlp",)], ids="+".join)
def test_a_share_of_a_layer_keeps_what_the_planner_says(operations: tuple[Module, ...], sp: bool) -> None:
    """With sequence parallelism the gathered outputs of norms too, unless they are recomputed and gathered again."""
    recompute = "selective" if operations else "none"
    plan = make_plan(CONFIG, tp=2, sp=sp, recompute=recompute, recompute_operations=operations)
    predicted = layer_kept(LAYER, replace(SHAPE, sharding=sharding_of(plan.configuration)))
    for kept in run_ranks(2, recompute_ranks.kept, plan):
        assert kept == pytest.approx(predicted.total - predicted.given_up(operations), rel=0.003)


WHOLE: dict[str, dict[str, Any]] = {"gemma2": families.DENSE["gemma2"], **moe_families.FAMILIES}


def gradients(config: dict[str, Any], **options: Any) -> dict[str, Tensor]:
    """Of one step of a whole model."""
    model = build_model(make_plan(config, **options), torch.device("cpu"))
    (batch,) = batches(config["vocab_size"], 32, 8, 1)
    model.forward_backward(batch)
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("family", WHOLE)
@pytest.mark.parametrize(
    "operations", [("mlp", "moe"), (*get_args(Module)[:3], "moe_act", "mla_up_proj")], ids="+".join
)
def test_every_family_is_recomputed_exactly(operations: tuple[Module, ...], family: str) -> None:
    """Sandwiched norms, experts, shared experts, latent attention."""
    expected = gradients(WHOLE[family])
    found = gradients(WHOLE[family], recompute="selective", recompute_operations=operations)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


ALL: dict[str, Any] = {"recompute": "selective", "recompute_operations": ("core_attn", "layernorm", "mlp")}
MESHES: dict[str, dict[str, Any]] = {
    "alone": ALL,
    "dp2 zero3": {**ALL, "dp": 2, "zero": 3},
    "tp2 sp": {**ALL, "tp": 2, "sp": True, "microbatch": 4},
    "pp2 tp2": {**ALL, "pp": 2, "tp": 2, "microbatch": 4},
}


@pytest.mark.parametrize("name", MESHES)
def test_selective_recomputation_equals_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, MESHES[name], 5, tmp_path)
