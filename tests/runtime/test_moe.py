"""The expert blocks compute what each family's transformers implementation computes, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from moe_families import DEEPSEEK_V3, FAMILIES, MIXTRAL, QWEN2_MOE
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from meshwright.planner.families import architecture
from meshwright.planner.plan import ModelSpec
from meshwright.runtime.blocks.expert_names import hub_name, hub_names, runtime_name
from meshwright.runtime.blocks.moe import Moe
from meshwright.runtime.blocks.moe_shape import MoeShape, read_moe
from meshwright.runtime.blocks.shape import read_shape


def their_model(config: dict[str, Any]) -> nn.Module:
    """The transformers model with random values everywhere, the router's bias included."""
    settings = AutoConfig.for_model(**config, attn_implementation="eager", experts_implementation="eager")
    model: nn.Module = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "inv_freq" not in name:
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model


def expert_shape(config: dict[str, Any]) -> MoeShape:
    moe = read_moe(config)
    assert moe is not None
    return moe


def our_block(config: dict[str, Any], theirs: dict[str, Tensor]) -> Moe:
    """Our block with their weights, of which gate and up are one tensor."""
    block = Moe(read_shape(config))
    state = dict(theirs)
    gate_up = state.pop("experts.gate_up_proj")
    state["experts.gate_proj"], state["experts.up_proj"] = gate_up.chunk(2, dim=1)
    block.load_state_dict(state)
    return block


def layer_of(config: dict[str, Any]) -> int:
    return min(expert_shape(config).layers)


@pytest.mark.parametrize("name", FAMILIES)
def test_block_equals_transformers(name: str) -> None:
    config = FAMILIES[name]
    model = their_model(config)
    theirs = model.get_submodule(f"model.layers.{layer_of(config)}.mlp")
    ours = our_block(config, theirs.state_dict())
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 24, config["hidden_size"], generator=generator)
    upstream = torch.randn(x.shape, generator=generator)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [block(inner) for block, inner in zip((theirs, ours), inputs, strict=True)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    for output in outputs:
        output.backward(upstream)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-5)
    compare_gradients(theirs, ours)


def compare_gradients(theirs: nn.Module, ours: Moe) -> None:
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    gate_up = expected.pop("experts.gate_up_proj")
    assert gate_up is not None
    expected["experts.gate_proj"], expected["experts.up_proj"] = gate_up.chunk(2, dim=1)
    found = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", FAMILIES)
def test_shape_agrees_with_the_planner(name: str) -> None:
    config = FAMILIES[name]
    shape, layers = expert_shape(config), architecture(ModelSpec(name="test", config=config)).layers
    assert shape.layers == {index for index, layer in enumerate(layers) if layer.moe}
    moe = next(layer.moe for layer in layers if layer.moe)
    shared = moe.shared.width if moe.shared else 0
    assert (shape.experts, shape.top_k, shape.width, shape.shared_width, shape.shared_gate) == (
        moe.experts, moe.top_k, moe.expert.width, shared, moe.shared_gate,
    )  # fmt: skip
    if moe.groups > 1:
        assert (shape.groups, shape.top_groups) == (moe.groups, moe.top_groups)


def test_bfloat16_activations_with_float32_weights() -> None:
    model = their_model(MIXTRAL)
    block = our_block(MIXTRAL, model.get_submodule("model.layers.0.mlp").state_dict())
    x = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
    found = block(x.bfloat16())
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert {parameter.grad.dtype for parameter in block.parameters() if parameter.grad is not None} == {torch.float32}


@pytest.mark.parametrize("config", [MIXTRAL, QWEN2_MOE, DEEPSEEK_V3], ids=lambda config: config["model_type"])
def test_hub_names_are_those_that_transformers_writes(config: dict[str, Any], tmp_path: Any) -> None:
    from safetensors import safe_open

    their_model(config).save_pretrained(tmp_path)  # type: ignore[operator]
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        written = set(file.keys())
    moe = expert_shape(config)
    ours = {runtime_name(name)[0] for name in written}
    assert {name for here in ours for name in hub_names(here, moe)} == written
    for name in written:
        here, expert = runtime_name(name)
        assert hub_name(here, moe, expert) == name
