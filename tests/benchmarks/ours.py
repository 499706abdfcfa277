"""The built-in runtime's side of a comparison: the very step of the training loop, data included."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from handwritten.model import Size

from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model
from meshwright.runtime.checkpoint import Position
from meshwright.runtime.data import Samples
from meshwright.runtime.optimizer import build_optimizer
from meshwright.runtime.parallel.compiled import INDUCTOR
from meshwright.runtime.parallel.expert.statistics import RoutingRecorder
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.train import Loop


def config_of(size: Size) -> dict[str, Any]:
    """The config.json of a hand-written model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "vocab_size": size.vocab,
        "max_position_embeddings": size.seq_len,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }


def make_loop(
    plan: Plan, tokens: np.ndarray[Any, np.dtype[Any]], device: torch.device, folder: Path, *, compiles: bool = False
) -> Loop:
    """A training loop without checkpoints and reports, which a run does not write in every step either."""
    recipe = Recipe(steps=10**9)
    model = build_model(plan, device, compiler=INDUCTOR if compiles else None)
    optimizer = build_optimizer(
        model, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, eps=recipe.eps
    )
    return Loop(
        plan, recipe, device, Samples(tokens, plan.job.seq_len, 0), model, optimizer,
        checkpointer=cast(Any, None), report=cast(Any, None), recorder=RoutingRecorder(model, folder, 0, 0),
        agreement=cast(Any, None), moved=lambda step: None, position=Position(0, 0), separator=None,
    )  # fmt: skip
