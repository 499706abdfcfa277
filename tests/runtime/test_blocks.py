"""The blocks compute what the family's transformers implementation computes, with the same parameter names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import DENSE, LATENT, ROPE3, YARN
from oracle import reference_model, renamed
from plans import LLAMA

from meshwright.runtime.blocks.shape import read_shape
from meshwright.runtime.blocks.transformer import Transformer

GPT2, GEMMA2, PHI3 = DENSE["gpt2"], DENSE["gemma2"], DENSE["phi3"]
CONFIGS: dict[str, dict[str, Any]] = {
    **DENSE,
    **LATENT,
    "llama plain": LLAMA,
    "llama without grouping": {**LLAMA, "num_key_value_heads": 4},
    "llama tied": {**LLAMA, "tie_word_embeddings": True},
    "llama 3 scaling": {**LLAMA, "rope_theta": 100.0, "rope_scaling": ROPE3},
    "llama 3 scaling, transformers 5": {**LLAMA, "rope_parameters": {**ROPE3, "rope_theta": 100.0}},
    "llama yarn, finer": {**LLAMA, "rope_scaling": {**YARN, "beta_fast": 4, "truncate": False}},
    "llama yarn, own factor": {**LLAMA, "rope_scaling": {**YARN, "attention_factor": 1.3}},
    "llama gelu": {**LLAMA, "hidden_act": "gelu"},
    "mistral, no window": {**LLAMA, "model_type": "mistral", "sliding_window": None},
    "mistral, wide window": {**LLAMA, "model_type": "mistral", "sliding_window": 64},
    "qwen2, by layer types": {
        **DENSE["qwen2"], "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "gemma2, untied, no caps": {
        **GEMMA2, "tie_word_embeddings": False, "attn_logit_softcapping": None, "final_logit_softcapping": None,
    },
    "gpt2, untied, relu": {
        **GPT2, "tie_word_embeddings": False, "activation_function": "relu", "scale_attn_weights": False,
    },
    "gpt2, default width": {**GPT2, "n_inner": None, "scale_attn_by_inverse_layer_idx": False},
    "phi3, whole heads, grouped": {**PHI3, "partial_rotary_factor": 1.0, "num_key_value_heads": 1},
    "deepseek_v2, yarn": {**LATENT["deepseek_v2, dense"], "rope_scaling": LATENT["deepseek_v3, dense"]["rope_scaling"]},
    "deepseek_v3, halves": {**LATENT["deepseek_v3, dense"], "rope_interleave": False},
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers(name: str) -> None:
    config = CONFIGS[name]
    expected = reference_model(config, shaken=True).eval()
    shape = read_shape(config)
    own = Transformer(shape, range(shape.layers), first=True, last=True, dtype=torch.float32)
    weights = renamed(expected.state_dict(), config)
    assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in expected.parameters())
    own.load_state_dict(weights, strict=False)
    tokens = torch.randint(0, config["vocab_size"], (2, 33), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(own(tokens), expected(tokens).logits, rtol=1e-4, atol=1e-5)


def _shake(model: torch.nn.Module) -> None:
    """Random values also for norms and biases, so that leaving one out would show."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_stages_compose_to_the_whole() -> None:
    shape = read_shape(LLAMA)
    whole = Transformer(shape, range(5), first=True, last=True, dtype=torch.float32)
    _shake(whole)
    front = Transformer(shape, range(2), first=True, last=False, dtype=torch.float32)
    back = Transformer(shape, range(2, 5), first=False, last=True, dtype=torch.float32)
    names = {name for part in (front, back) for name, _ in part.named_parameters()}
    assert names == {name for name, _ in whole.named_parameters()}
    for part in (front, back):
        part.load_state_dict({name: value for name, value in whole.state_dict().items() if name in part.state_dict()})
    tokens = torch.arange(32).unsqueeze(0)
    assert torch.equal(back(front(tokens)), whole(tokens))


@pytest.mark.parametrize("family", DENSE | LATENT)
def test_bfloat16_activations_with_float32_weights(family: str) -> None:
    config = (DENSE | LATENT)[family]
    shape = read_shape(config)
    exact = Transformer(shape, range(shape.layers), first=True, last=True, dtype=torch.float32)
    own = Transformer(shape, range(shape.layers), first=True, last=True, dtype=torch.bfloat16)
    own.load_state_dict(reference_weights(exact))
    tokens = torch.arange(32).unsqueeze(0)
    logits = own(tokens)
    assert logits.dtype == torch.bfloat16
    expected = exact(tokens)
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
    logits.float().sum().backward()
    assert {parameter.grad.dtype for parameter in own.parameters() if parameter.grad is not None} == {torch.float32}


def reference_weights(model: Transformer) -> dict[str, torch.Tensor]:
    _shake(model)
    return model.state_dict()
