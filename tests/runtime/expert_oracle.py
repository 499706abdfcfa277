"""Training of models with experts on one device: transformers' own model, with the runtime's initial weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from oracle import Curve
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
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


@dataclass(frozen=True, slots=True)
class Balancing:
    """What a run adds to the loss, as the recipe says it, and how its mesh splits a batch."""

    balance: str = "none"
    aux_loss: float = 0.0
    z_loss: float = 0.0
    bias_rate: float = 0.0
    dp: int = 1
    microbatches: int = 1


def train_reference(
    config: dict[str, Any],
    *,
    steps: int,
    seq_len: int,
    global_batch: int,
    balancing: Balancing | None = None,
    model: PreTrainedModel | None = None,
) -> Curve:
    """`steps` steps of `model`, or of one with initial weights, with all microbatches; losses are those of the tokens
    alone."""
    model, balancing = reference_model(config) if model is None else model, balancing or Balancing()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, **OPTIMIZER)
    losses, norms, gradients = [], [], []
    for batch in batches(config["vocab_size"], seq_len, global_batch, steps):
        optimizer.zero_grad()
        losses.append(_forward_backward(model, batch, balancing))
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        gradients.append(dict(in_our_names(found)))
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM).item())
        optimizer.step()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    return Curve(losses, norms, gradients, dict(in_our_names(parameters)))


def _forward_backward(model: PreTrainedModel, batch: Tensor, balancing: Balancing) -> float:
    """One microbatch of every data-parallel rank at once, one after the other."""
    gates = {name: module for name, module in model.named_modules() if name.endswith("mlp.gate")}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        gate.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, (out[0], out[2])))  # type: ignore[misc]
        for name, gate in gates.items()
    ]
    ranks = [rank.chunk(balancing.microbatches) for rank in batch.chunk(balancing.dp)]
    counts: dict[str, Tensor] = {}
    total = 0.0
    for index in range(balancing.microbatches):
        tokens = torch.cat([rank[index] for rank in ranks])
        logits = model(tokens[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) / balancing.microbatches
        added = [_added(model, seen[name], counts, name, balancing) for name in gates]
        (loss + sum(added) / balancing.microbatches).backward()
        total += loss.item()
    for hook in hooks:
        hook.remove()
    if balancing.balance == "bias":
        for name, gate in gates.items():
            gate.e_score_correction_bias += balancing.bias_rate * (counts[name].mean() - counts[name]).sign()
    return total


def _added(
    model: PreTrainedModel, seen: tuple[Tensor, Tensor], counts: dict[str, Tensor], name: str, balancing: Balancing
) -> Tensor:
    """The losses of one layer on one microbatch of all ranks; `counts` are those of the step so far."""
    logits, chosen = seen
    experts, top_k = logits.shape[-1], chosen.shape[-1]
    sigmoid = model.config.model_type == "deepseek_v3"
    probabilities = F.normalize(logits.sigmoid(), p=1, dim=-1) if sigmoid else logits.softmax(-1)
    counts[name] = counts.get(name, torch.zeros(experts)) + F.one_hot(chosen, experts).sum((0, 1))
    added = balancing.z_loss * logits.logsumexp(-1).square().mean()
    if balancing.balance == "global":
        frequency = counts[name] * top_k / counts[name].sum()
        added = added + balancing.aux_loss * experts * (frequency * probabilities.mean(0)).sum()
    if balancing.balance == "microbatch":
        assert not sigmoid
        each = [load_balancing_loss_func((part,), experts, top_k) for part in logits.chunk(balancing.dp)]
        added = added + balancing.aux_loss * torch.stack(each).mean()  # type: ignore[arg-type]
    return added
