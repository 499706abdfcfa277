"""Models train alike with Triton's kernels and with their references: losses and gradients of a step, both ways."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from families import GEMMA2, GPT2, LATENT, LLAMA_ODD, PHI3, QWEN3
from moe_families import MIXTRAL
from pydantic import ValidationError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from meshwright.kernels import switch
from meshwright.runtime.blocks.shape import read_shape
from meshwright.runtime.blocks.transformer import Transformer
from meshwright.runtime.parallel.compiled import compile_layer
from meshwright.runtime.parallel.context.block import Merged
from meshwright.runtime.parallel.recompute import recompute_operations
from meshwright.runtime.recipe import Recipe

CONFIGS = {"llama": LLAMA_ODD, "qwen3": QWEN3, "gemma2": GEMMA2, "gpt2": GPT2, "phi3": PHI3, **LATENT}
EXPECTED = {
    "llama": {"norm", "gated", "rotary"},
    "qwen3": {"norm", "gated", "rotary"},
    "gemma2": {"norm", "gated", "rotary"},
    "gpt2": {"norm"},
    "phi3": {"norm", "gated", "rotary"},
}


class Seen(TorchDispatchMode):
    """Which of our operators ran."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func.name().partition("::")
        if namespace == "meshwright":
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fast(device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let `auto` run Triton, interpreted where no GPU is."""
    monkeypatch.setattr(switch, "INTERPRETED", True)
    return device


def model_of(config: dict[str, Any], device: str) -> Transformer:
    """Random weights, those of norms and biases too."""
    shape = read_shape(config)
    model = Transformer(shape, range(shape.layers), first=True, last=True, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.to(device)


def step(model: Transformer, vocab: int, device: str) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of a batch."""
    tokens = torch.randint(vocab, (2, 11), generator=torch.Generator().manual_seed(1)).to(device)
    loss = model(tokens[:, :-1], tokens[:, 1:].contiguous())
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_step_is_the_same_both_ways(family: str, fast: str) -> None:
    config = CONFIGS[family]
    model, vocab = model_of(config, fast), config["vocab_size"]
    with switch.kernels("reference"), Seen() as seen:
        expected = step(model, vocab, fast)
    assert not seen.calls
    with Seen() as seen:
        found = step(model, vocab, fast)
    assert EXPECTED.get(family, {"norm", "gated", "rotary"}) <= set(seen.calls)
    assert {f"{name}_backward" for name in EXPECTED.get(family, ())} <= set(seen.calls)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_experts_train_the_same_both_ways(fast: str) -> None:
    """Sorted, permuted and added up by Triton; their products, of rows that PyTorch has none for, too."""
    config = {**MIXTRAL, "intermediate_size": 30}  # no multiple of 16 bytes
    model, vocab = model_of(config, fast), config["vocab_size"]
    with switch.kernels("reference"):
        expected = step(model, vocab, fast)
    with Seen() as seen:
        found = step(model, vocab, fast)
    both = {"sort_by_expert", "spread_rows", "collect_rows", "collect_weighted", "collect_backward"}
    assert both | {"grouped_linear", "grouped_backward"} <= set(seen.calls)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_compiled_layers_train_the_same(fast: str) -> None:
    model, vocab = model_of(LLAMA_ODD, fast), LLAMA_ODD["vocab_size"]
    with switch.kernels("reference"):
        expected = step(model, vocab, fast)
    for layer in model.model.layers.values():
        compile_layer(layer, "aot_eager")
    with Seen() as seen:
        found = step(model, vocab, fast)
    torch._dynamo.reset()
    assert {"norm", "norm_backward", "gated_backward", "rotary_backward"} <= set(seen.calls)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_forgotten_norms_train_the_same(fast: str) -> None:
    """Selective recomputation runs norms once more, with the residual that they add."""
    model, vocab = model_of(LLAMA_ODD, fast), LLAMA_ODD["vocab_size"]
    with switch.kernels("reference"):
        expected = step(model, vocab, fast)
    for layer in model.model.layers.values():
        recompute_operations(layer, ["layernorm", "mlp"])
    torch.testing.assert_close(step(model, vocab, fast), expected, rtol=1e-4, atol=1e-4)


def test_partial_attention_is_merged_the_same(fast: str) -> None:
    found = []
    for choice in ("auto", "reference"):
        generator = torch.Generator().manual_seed(0)
        query, other = (torch.randn(2, 3, 8, 6, generator=generator).to(fast) for _ in range(2))
        merged = Merged(query, query)
        with switch.kernels(choice), Seen() as seen:  # type: ignore[arg-type]
            merged.add(slice(0, 8), query, query.sum(-1))
            merged.add(slice(3, 7), other[:, :, 3:7], other[:, :, 3:7].sum(-1))
        assert seen.calls["merge_into"] == (2 if choice == "auto" else 0)
        found.append(merged.result())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_the_recipes_switch() -> None:
    assert Recipe(steps=1).kernels is None  # what the plan says, which is auto unless it was asked for another
    assert Recipe(steps=1, kernels="reference").kernels == "reference"
    with pytest.raises(ValidationError, match="'auto' or 'reference'"):
        Recipe(steps=1, kernels="fast")  # type: ignore[arg-type]
