"""Weight gradients that are put off: exact, at the price of one backward pass, and in float32 where sums are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import run_ranks
from plans import LLAMA, make_plan
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from workers import precise_gradients

from meshwright.planner.cost.compute import layer_matmuls, put_off_bytes
from meshwright.planner.cost.sharding import sharding_of
from meshwright.planner.families import architecture
from meshwright.runtime.blocks.linear import Linear
from meshwright.runtime.build import build_model
from meshwright.runtime.parallel.recompute import recompute_layer
from meshwright.runtime.parallel.weight_gradient import PutOff

TOKENS = torch.arange(66).view(2, 33) % 256


def _part(*, recompute: bool = False) -> nn.Module:
    part = build_model(make_plan(LLAMA, microbatch=8), torch.device("cpu")).parts[0]
    if recompute:
        for layer in part.model.layers.values():  # type: ignore[union-attr, operator]
            recompute_layer(layer)
    return part


def _gradients(part: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in part.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("recompute", [False, True])
def test_both_halves_make_the_whole(recompute: bool) -> None:
    plain, split, put_off = _part(), _part(recompute=recompute), PutOff()
    plain(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    with put_off.used():
        split(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    waiting = {name for name, parameter in split.named_parameters() if parameter.grad is None}
    assert waiting == {f"{name}.weight" for name, block in split.named_modules() if _waits(name, block)}
    put_off.take(split)()
    expected, found = _gradients(plain), _gradients(split)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


def _waits(name: str, block: nn.Module) -> bool:
    return isinstance(block, Linear) and name != "lm_head"


def test_recomputed_layers_run_once_more_and_no_oftener() -> None:
    """PyTorch's own split recomputes a checkpointed layer for each of its weights (pytorch/pytorch#136766)."""
    part, put_off, calls = _part(recompute=True), PutOff(), [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    for layer in part.model.layers.values():  # type: ignore[union-attr, operator]
        layer.mlp.register_forward_pre_hook(count)  # inside of what is recomputed
    with put_off.used():
        loss = part(TOKENS[:, :-1], TOKENS[:, 1:])
        assert calls == [LLAMA["num_hidden_layers"]]
        loss.backward()
        put_off.take(part)()
    assert calls == [2 * LLAMA["num_hidden_layers"]]


def test_what_is_used_is_given_back() -> None:
    put_off, linear = PutOff(), Linear(4, 4, bias=False)
    with pytest.raises(ZeroDivisionError), put_off.used():
        raise ZeroDivisionError
    linear(torch.ones(1, 4, requires_grad=True)).sum().backward()
    assert linear.weight.grad is not None
    assert not put_off.notes


def test_without_gradients_nothing_waits() -> None:
    put_off, linear = PutOff(), Linear(4, 4, bias=True)
    with put_off.used():
        linear(torch.ones(1, 4)).sum().backward()  # the input needs no gradient: there is no first half
        with torch.no_grad():
            linear(torch.ones(1, 4, requires_grad=True))
    assert linear.weight.grad is not None
    assert not put_off.notes


@pytest.mark.parametrize("zero", [0, 1])
def test_gradients_in_16_bit_are_summed_in_float32(zero: int) -> None:
    """Eight microbatches on two stages and two replicas: to float32's last digits what 1F1B sums."""
    options: dict[str, Any] = {"pp": 2, "dp": 2, "zero": zero, "precision": "bf16", "global_batch": 16, "microbatch": 1}
    whole, split = (make_plan(LLAMA, **options, schedule=name) for name in ("1f1b", "zb-h1"))
    for found in run_ranks(4, precise_gradients, whole, split):
        assert max(found.values()) < 1e-5, found


def test_the_planner_prices_what_waits() -> None:
    """FLOPs that W computes, and bytes that wait for it, of every layer: as many as the planner counts."""
    plan, put_off = make_plan(LLAMA, microbatch=2, global_batch=2), PutOff()
    part = build_model(plan, torch.device("cpu")).parts[0]
    with put_off.used():
        part(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    tensors = [tensor for note in put_off.notes for tensor in (note.x, note.gradient)]
    once = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    with FlopCounterMode(display=False) as counted:
        put_off.take(part)()
    layers, sharding = architecture(plan.model).layers, sharding_of(plan.configuration)
    matmuls = [each for layer in layers for each in layer_matmuls(layer, sharding, plan.job.seq_len)]
    assert counted.get_total_flops() == sum(2 * each.count * each.m * each.n * each.k for each in matmuls)
    assert sum(once.values()) == sum(put_off_bytes(layer, sharding, plan.job.seq_len, 4) for layer in layers)
