"""Training on one device as everybody knows it: a transformers model, torch's AdamW and torch's clipping."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY, batches

from meshwright.runtime.blocks.shape import read_shape
from meshwright.runtime.blocks.transformer import Transformer
from meshwright.runtime.initialize import full_tensor
from meshwright.runtime.names import sources


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


def reference_model(config: dict[str, Any], seed: int = 0, shaken: bool = False) -> PreTrainedModel:
    """The transformers implementation in float32, with the initial weights that the runtime gives the model.

    `shaken`: all of them random, norms and biases too, so that leaving one out would show.
    """
    settings = AutoConfig.for_model(**config, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    shape = read_shape(config)
    values = dict(model.named_parameters())
    with torch.device("meta"):
        ours = Transformer(shape, range(shape.layers), first=True, last=True, dtype=torch.float32)
    with torch.no_grad():
        for name, like in ours.named_parameters():
            value = full_tensor(name, like.shape, seed=seed, std=shape.initializer_range, norm=shape.unit_norm)
            if shaken:
                value = shake(name, value)
            part(values, config, name, len(value)).copy_(value)
    return model


def shake(name: str, value: Tensor) -> Tensor:
    """Random values that depend on the name alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return 0.1 * torch.randn(value.shape, generator=generator)


def part(values: Mapping[str, Tensor], config: dict[str, Any], name: str, rows: int) -> Tensor:
    """The runtime's parameter `name` as a view of a tensor that transformers has, under that model's names."""
    (source,) = sources(read_shape(config), name)
    whole = values[source.name]
    return (whole.T if source.transposed else whole)[source.first_row : source.first_row + rows]


def renamed(values: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """What transformers has, under the runtime's names and cut as the runtime cuts it."""
    shape = read_shape(config)
    with torch.device("meta"):
        ours = Transformer(shape, range(shape.layers), first=True, last=True, dtype=torch.float32)
    return {name: part(values, config, name, len(like)).clone() for name, like in ours.named_parameters()}


def train_reference(
    config: dict[str, Any], *, steps: int, seq_len: int, global_batch: int, model: PreTrainedModel | None = None
) -> Curve:
    """`steps` steps of `model`, or of one with initial weights, each on the whole global batch at once."""
    model = reference_model(config) if model is None else model
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
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        gradients.append(renamed(found, config))
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM).item())
        losses.append(loss.item())
        optimizer.step()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    return Curve(losses, norms, gradients, renamed(parameters, config))
