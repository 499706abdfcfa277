"""Training of models with experts on one device: transformers' own model, with the runtime's initial weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from oracle import Curve
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY, batches

from meshwright.runtime.initialize import full_tensor

_FUSED = "experts.gate_up_proj"


def reference_model(config: dict[str, Any], seed: int = 0) -> PreTrainedModel:
    """The transformers implementation in float32, with the initial weights that the runtime gives."""
    settings = AutoConfig.for_model(**config, attn_implementation="eager", experts_implementation="eager")
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    options: dict[str, Any] = {"seed": seed, "std": settings.initializer_range}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(_FUSED):
                experts, rows, hidden = parameter.shape
                size = torch.Size((experts, rows // 2, hidden))
                halves = [full_tensor(half, size, **options) for half in _halves(name)]
                parameter.copy_(torch.cat(halves, dim=1))
            else:
                parameter.copy_(full_tensor(name, parameter.shape, **options))
    return model


def _halves(name: str) -> tuple[str, str]:
    return name.replace("gate_up_proj", "gate_proj"), name.replace("gate_up_proj", "up_proj")


def in_our_names(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of transformers' parameters as the runtime has them: gate and up apart."""
    for name, tensor in tensors.items():
        yield from (
            zip(_halves(name), tensor.chunk(2, dim=1), strict=True) if name.endswith(_FUSED) else [(name, tensor)]
        )


def train_reference(config: dict[str, Any], *, steps: int, seq_len: int, global_batch: int) -> Curve:
    """`steps` steps, each on the whole global batch at once."""
    model = reference_model(config)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, **OPTIMIZER)
    losses, norms, first = [], [], {}
    for step, batch in enumerate(batches(config["vocab_size"], seq_len, global_batch, steps)):
        optimizer.zero_grad()
        logits = model(batch[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        if step == 0:
            first = dict(in_our_names({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM).item())
        losses.append(loss.item())
        optimizer.step()
    return Curve(losses, norms, first)
