"""Files that transformers has written, for rows that begin with them, and the logits of their model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import expert_oracle
import oracle
import torch
from oracle import shake
from torch import Tensor
from transformers import PreTrainedModel
from workers import batches

EXPERTS = {"num_local_experts", "num_experts", "n_routed_experts"}
"""Of a config with experts."""

_LARGER = 2.0


def write_model(config: dict[str, Any], folder: Path) -> PreTrainedModel:
    """A model in safetensors, in several files. No norm is one and no bias zero, so that leaving one out would show;
    matrices are larger than initial ones, so that every layer counts in the logits."""
    make = oracle.reference_model if EXPERTS.isdisjoint(config) else expert_oracle.reference_model
    model = make(config)
    states = (*model.named_parameters(), *model.named_buffers())
    with torch.no_grad():
        for name, tensor in states:
            if tensor.ndim > 1:
                tensor *= _LARGER
            elif "inv_freq" not in name and "embed_scale" not in name:
                tensor += shake(name, tensor)
    model.save_pretrained(folder, max_shard_size="100KB")
    return model


@torch.no_grad()
def logits_of(model: PreTrainedModel, seq_len: int, global_batch: int) -> Tensor:
    """[global_batch, seq_len, vocab], of the tokens of the first step."""
    (batch,) = batches(model.config.vocab_size, seq_len, global_batch, 1)
    found: Tensor = model(batch[:, :-1]).logits
    return found
