"""What ranks do in the tests of pretrained weights: found by import, run by harness.run_ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model
from meshwright.runtime.export import export
from meshwright.runtime.model import ParallelModel
from meshwright.runtime.pretrained import load_pretrained

CPU = torch.device("cpu")


def load_everywhere(
    plans: list[Plan], folder: Path, tokens: Tensor, target: Path | None = None
) -> list[tuple[Any, int, int]]:
    """For each mesh: the logits of `tokens`, what this rank read, and what it holds, in bytes. Each mesh exports to a
    folder of its number in `target`."""
    targets = [None if target is None else target / str(number) for number in range(len(plans))]
    return [_load(plan, folder, tokens, where) for plan, where in zip(plans, targets, strict=True)]


def _load(plan: Plan, folder: Path, tokens: Tensor, target: Path | None) -> tuple[Any, int, int]:
    model = build_model(plan, CPU, seed=None)
    read = load_pretrained(model, folder)
    if target is not None:
        export(model, plan, target, tokenizer=None, shard_bytes=100_000)
    locals_ = [
        p.to_local() if isinstance(p, DTensor) else p for _, p in (*model.named_parameters(), *model.named_buffers())
    ]
    return _logits(model, tokens), read, sum(part.numel() * 4 for part in locals_)


@torch.no_grad()
def _logits(model: ParallelModel, tokens: Tensor) -> Any:
    """Of a pipeline without microbatches, stage after stage; shares of the vocabulary side by side."""
    meshes, x = model.meshes, tokens
    stage = meshes.pp_rank
    if stage > 0:
        length = tokens.shape[1] // (meshes.tp_size if model.plan.sp else 1)
        x = torch.empty(len(tokens), length, model.shape.hidden)
        dist.recv(x, meshes.rank - meshes.stage_size)
    x = model.parts[0](x)
    if stage < meshes.pp_size - 1:
        dist.send(x.contiguous(), meshes.rank + meshes.stage_size)
    shares: list[Any] = [None] * meshes.world_size
    if not dist.is_initialized():
        return x.tolist()
    dist.all_gather_object(shares, x.tolist())
    last = [torch.tensor(share) for share in shares[-meshes.tp_size :]]
    return torch.cat(last, dim=-1).tolist()


def load_and_export(plan: Plan, folder: Path, target: Path) -> None:
    """From one folder to another, through the model."""
    model = build_model(plan, CPU, seed=None)
    load_pretrained(model, folder)
    export(model, plan, target, tokenizer=None, shard_bytes=100_000)
