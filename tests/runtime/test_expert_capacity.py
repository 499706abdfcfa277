"""Capacity: what is dropped, against a loop over tokens and experts in one process."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import expert_workers
import pytest
import torch
from expert_placements import placed
from harness import run_ranks
from moe_families import DEEPSEEK_V3, MIXTRAL, QWEN2_MOE
from plans import make_plan
from torch import Tensor

from meshwright.runtime.blocks.moe import Moe
from meshwright.runtime.blocks.shape import read_shape

SKEWED = {**QWEN2_MOE, "num_experts": 8, "mlp_only_layers": []}


def random_block(config: dict[str, Any]) -> Moe:
    """Weights so large that some experts are wanted far more often than others."""
    block, generator = Moe(read_shape(config)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*block.parameters(), *block.buffers()):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return block


def plain(block: Moe, x: Tensor, ranks: int, factor: float, drop: str) -> Tensor:
    """The block with capacity as it is defined: rank by rank, expert by expert, token by token."""
    outputs = []
    for part in x.flatten(0, 1).chunk(ranks):
        weights, experts, _, _ = block.gate(part)
        capacity = math.ceil(factor * len(part) * experts.shape[1] / block.experts.count)
        output = torch.zeros_like(part)
        for expert in range(block.experts.count):
            wanted = [(t, c) for t in range(len(part)) for c in range(experts.shape[1]) if experts[t, c] == expert]
            if drop == "probability":
                wanted.sort(key=lambda pair: (-weights[pair].item(), pair[0]))
            for token, choice in wanted[:capacity]:
                gate, up, down = (getattr(block.experts, f"{name}_proj")[expert] for name in ("gate", "up", "down"))
                inner = torch.nn.functional.silu(gate @ part[token]) * (up @ part[token])
                row = torch.zeros_like(output)
                row[token] = weights[token, choice] * (down @ inner)
                output = output + row
        if block.shared is not None:
            output = output + block._gated(part, block.shared(part))
        outputs.append(output)
    return torch.cat(outputs).view_as(x)


@pytest.mark.parametrize("drop", ["probability", "position"])
@pytest.mark.parametrize(
    ("config", "degrees", "factor"),
    [(MIXTRAL, {}, 1.0), (SKEWED, {"dp": 2, "ep": 2}, 0.5), (DEEPSEEK_V3, {"dp": 2, "etp": 2}, 1.25)],
    ids=["mixtral, one process", "qwen2_moe, ep2", "deepseek_v3, etp2"],
)
def test_capacity_equals_its_definition(
    config: dict[str, Any], degrees: dict[str, int], factor: float, drop: str, tmp_path: Path
) -> None:
    ranks = degrees.get("dp", 1)
    block = random_block(config)
    x = torch.randn(2, 20, config["hidden_size"], generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = plain(block, x, ranks, factor, drop)
    others = [block(x), plain(block, x, ranks, factor, "position" if drop == "probability" else "probability")]
    assert not any(torch.allclose(expected, other, rtol=1e-2) for other in others)  # the limit and the order matter
    expected.square().sum().backward()
    recipe = {"balance": "none", "capacity_factor": factor, "drop": drop}
    arguments = (tmp_path, block.state_dict(), config, x.detach(), degrees, recipe)
    run_ranks(ranks, expert_workers.route_with_capacity, *arguments)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(ranks)]
    torch.testing.assert_close(torch.cat([rank["output"] for rank in found]), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([rank["x"] for rank in found]), x.grad, rtol=1e-4, atol=1e-3)
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None
        gradient = sum(rank[name] for rank in found) if not name.startswith("experts.") else found[0][name]
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_a_large_capacity_drops_nothing(tmp_path: Path) -> None:
    block = random_block(MIXTRAL)
    x = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(1))
    recipe = {"balance": "none", "capacity_factor": 4.0}  # experts / top_k: room for every token
    run_ranks(1, expert_workers.route_with_capacity, tmp_path, block.state_dict(), MIXTRAL, x, {}, recipe)
    torch.testing.assert_close(torch.load(tmp_path / "0.pt")["output"], block(x))


def test_capacity_does_not_depend_on_where_experts_are() -> None:
    """What is dropped follows from the tokens of a rank: from dp, cp and tp, not from ep, etp and the placement."""
    recipe = {"balance": "none", "capacity_factor": 1.0}
    runs = [
        run_ranks(2, expert_workers.losses, make_plan(MIXTRAL, dp=2, **experts), 4, recipe)[0]
        for experts in ({}, {"ep": 2}, {"etp": 2}, placed(MIXTRAL, 2))
    ]
    dropless = run_ranks(2, expert_workers.losses, make_plan(MIXTRAL, dp=2), 4, {"balance": "none"})[0]
    assert all(run == pytest.approx(runs[0], rel=1e-5) for run in runs[1:])
    assert runs[0] != pytest.approx(dropless, rel=1e-5)


@pytest.mark.parametrize("degrees", [{"dp": 2, "ep": 2}, {"dp": 2, "etp": 2}, {"dp": 4, "ep": 2, "etp": 2}], ids=str)
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "moe_act"])
def test_ranks_that_nobody_sends_to(degrees: dict[str, int], recompute: bool, tmp_path: Path) -> None:
    """All tokens choose the first three experts: the others' ranks get none, and their weights gradients of zero."""
    block = random_block(DEEPSEEK_V3)
    with torch.no_grad():
        assert block.gate.e_score_correction_bias is not None
        block.gate.e_score_correction_bias[:3] += 100.0
    x = torch.randn(4, 10, 32, generator=torch.Generator().manual_seed(1))
    output = block(x)
    output.square().sum().backward()
    arguments = (tmp_path, block.state_dict(), DEEPSEEK_V3, x, degrees, {"balance": "none"}, recompute)
    run_ranks(degrees["dp"], expert_workers.route_with_capacity, *arguments)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(degrees["dp"])]
    torch.testing.assert_close(torch.cat([rank["output"] for rank in found]), output, rtol=1e-4, atol=1e-4)
    for name in ("gate_proj", "up_proj", "down_proj"):
        gradient = block.experts.get_parameter(name).grad
        assert gradient is not None
        assert gradient[3:].count_nonzero() == 0
        torch.testing.assert_close(found[0][f"experts.{name}"], gradient, rtol=1e-3, atol=1e-3)
