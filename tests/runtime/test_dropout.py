"""Dropout drops the same entries on every mesh, where transformers drops them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dropout_ranks import draws, dropped
from families import GPT2, PHI3
from harness import run_ranks
from oracle import reference_model, renamed
from plans import make_plan
from torch import Tensor, nn
from workers import batches

from meshwright.kernels.dropout import dropout
from meshwright.runtime.build import build_model

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {**GPT2, "embd_pdrop": 0.1, "resid_pdrop": 0.3},
    "phi3": {**PHI3, "resid_pdrop": 0.3},
}
MESHES: list[dict[str, Any]] = [
    {"tp": 2, "sp": True, "dp": 2, "zero": 3, "recompute": "full"},
    {"pp": 2, "tp": 2, "zero": 0, "microbatch": 4},
    {"cp": 2, "dp": 2, "zero": 0, "microbatch": 4},
]


class Dropped(nn.Module):
    """In the place of a dropout of transformers: our masks."""

    def __init__(self, rate: float, site: int):
        super().__init__()
        self.rate, self.site = rate, site

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate, draws(), self.site, torch.arange(x.shape[1]))


def reference(family: str) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a transformers model in training."""
    config = CONFIGS[family]
    model: Any = reference_model(config)
    if family == "gpt2":
        model.transformer.drop = Dropped(config["embd_pdrop"], 0)
    for index, layer in enumerate(model.transformer.h if family == "gpt2" else model.model.layers):
        first, second = Dropped(config["resid_pdrop"], 2 * index + 1), Dropped(config["resid_pdrop"], 2 * index + 2)
        if family == "gpt2":
            layer.attn.resid_dropout, layer.mlp.dropout = first, second
        else:
            layer.resid_attn_dropout, layer.resid_mlp_dropout = first, second
    (batch,) = batches(config["vocab_size"], 32, 8, 1)
    loss = F.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    return loss.item(), renamed({name: p.grad for name, p in model.named_parameters()}, config)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_mesh_drops_what_transformers_would(family: str, tmp_path: Path) -> None:
    loss, gradients = reference(family)
    torch.save(gradients, tmp_path / "gradients.pt")
    plans = [make_plan(CONFIGS[family], **options) for options in MESHES]
    for found in run_ranks(4, dropped, plans, tmp_path / "gradients.pt"):
        for own, error in found:
            assert own == pytest.approx(loss, rel=1e-5)
            assert error < 1e-5


def test_other_samples_and_no_draws_make_another_loss() -> None:
    config = CONFIGS["gpt2"]
    model = build_model(make_plan(config, zero=0, microbatch=8), torch.device("cpu"))
    (batch,) = batches(config["vocab_size"], 32, 8, 1)
    losses = {model.forward_backward(batch, draws=drawn).item() for drawn in (None, draws(), draws(8))}
    assert len(losses) == 3
