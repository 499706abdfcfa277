"""Training on one device as everybody knows it: a transformers model, torch's AdamW and torch's clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY, batches

from meshwright.runtime.initialize import full_tensor


@dataclass(frozen=True, slots=True)
class Curve:
    """What a run shows: losses, gradient norms and gradients of its steps, and the parameters after the last."""

    losses: list[float]
    norms: list[float]
    gradients: list[dict[str, Tensor]]
    parameters: dict[str, Tensor]

    @property
    def first_gradients(self) -> dict[str, Tensor]:
        return self.gradients[0]


def reference_model(config: dict[str, Any], seed: int = 0) -> PreTrainedModel:
    """The transformers implementation in float32, with the initial weights that the runtime gives those names."""
    settings = AutoConfig.for_model(**config, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(full_tensor(name, parameter.shape, seed=seed, std=settings.initializer_range))
    return model


def train_reference(config: dict[str, Any], *, steps: int, seq_len: int, global_batch: int) -> Curve:
    """`steps` steps, each on the whole global batch at once."""
    model = reference_model(config)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, **OPTIMIZER)
    losses, norms, gradients = [], [], []
    for batch in batches(config["vocab_size"], seq_len, global_batch, steps):
        optimizer.zero_grad()
        logits = model(batch[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM).item())
        losses.append(loss.item())
        optimizer.step()
    return Curve(losses, norms, gradients, {name: p.detach() for name, p in model.named_parameters()})
