"""The trained model as Hugging Face files: safetensors, index, config.json, tokenizer.json.

One tensor at a time is gathered, and one file at a time is held in memory: that of the rank that writes it.
Under a pipeline each stage gathers and writes its own layers.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from ..planner.plan import Plan
from .blocks.transformer import EMBEDDING
from .files import sync_folder, write_text
from .model import ParallelModel

SHARD_BYTES = 5 * 10**9  # transformers' own default for save_pretrained
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Names = list[str]
T = TypeVar("T")


def export(
    model: ParallelModel, plan: Plan, folder: Path, *, tokenizer: Path | None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write `folder`, complete or not at all. Called by all ranks together.

    Weights are stored in the precision of the products that training computed with: bf16 jobs as bfloat16,
    else float32.
    """
    dtype = _DTYPES.get(plan.job.precision, torch.float32)
    temporary = folder.with_name(f"{folder.name}.tmp")
    if _rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _barrier()
    own = [(name, tensor) for name, tensor in model.named_parameters() if not _is_tied_copy(name, model)]
    shards = _shards([(name, tensor.numel() * dtype.itemsize) for name, tensor in own], shard_bytes)
    first, total = _numbering(model, len(shards))
    tensors = dict(own)
    for number, names in enumerate(shards, start=first):
        _write_shard(model, {name: tensors[name] for name in names}, temporary / _file_name(number, total), dtype)
    index = _gather_index(model, shards, first, total, {name: tensor.numel() * dtype.itemsize for name, tensor in own})
    if _rank() == 0:
        _write_rest(temporary, plan, dtype, index, tokenizer)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync_folder(folder.parent)
    _barrier()


def _is_tied_copy(name: str, model: ParallelModel) -> bool:
    """The last stage's copy of a tied embedding carries the embedding's name: the first stage writes it."""
    first = 0 in model.plan.configuration.stages_of(model.meshes.pp_rank)
    return name == EMBEDDING and model.shape.tied_embeddings and not first


def _shards(sizes: list[tuple[str, int]], limit_bytes: int) -> list[Names]:
    """Consecutive names whose tensors fit one file; a tensor above the limit has a file of its own."""
    shards: list[Names] = []
    filled = math.inf
    for name, size in sizes:
        if filled + size > limit_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _numbering(model: ParallelModel, count: int) -> tuple[int, int]:
    """The number of this stage's first file, and of all files: stage after stage, from 1."""
    counts = dict(_gather((model.meshes.pp_rank, count)))
    return 1 + sum(n for stage, n in counts.items() if stage < model.meshes.pp_rank), sum(counts.values())


def _file_name(number: int, total: int) -> str:
    return "model.safetensors" if total == 1 else f"model-{number:05}-of-{total:05}.safetensors"


def _writes(model: ParallelModel) -> bool:
    """One rank of each stage."""
    return model.meshes.rank % model.meshes.stage_size == 0


def _write_shard(model: ParallelModel, shard: dict[str, torch.Tensor], path: Path, dtype: torch.dtype) -> None:
    held: dict[str, torch.Tensor] = {}
    for name, parameter in shard.items():
        tensor = parameter.detach()
        full = _whole(tensor) if isinstance(tensor, DTensor) else tensor  # all ranks of the stage
        if _writes(model):
            held[name] = full.to(device="cpu", dtype=dtype).contiguous().clone()
    if _writes(model):
        save_file(held, path, metadata={"format": "pt"})


def _whole(tensor: DTensor) -> torch.Tensor:
    """Gathered on the device: shards of swapped layers are on the host."""
    whole: torch.Tensor = tensor.to(tensor.device_mesh.device_type).full_tensor()  # type: ignore[attr-defined]
    return whole


def _gather_index(
    model: ParallelModel, shards: list[Names], first: int, total: int, sizes: dict[str, int]
) -> dict[str, object]:
    own = {name: _file_name(number, total) for number, names in enumerate(shards, start=first) for name in names}
    everywhere: dict[str, str] = {}
    total_size: dict[str, int] = {}
    for names, bytes_of in _gather((own, sizes)):
        everywhere |= names
        total_size |= bytes_of
    return {"metadata": {"total_size": sum(total_size.values())}, "weight_map": dict(sorted(everywhere.items()))}


def _write_rest(folder: Path, plan: Plan, dtype: torch.dtype, index: dict[str, object], tokenizer: Path | None) -> None:
    files = set(index["weight_map"].values())  # type: ignore[attr-defined]
    if len(files) > 1:
        write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
    config = {**plan.model.config, "torch_dtype": str(dtype).removeprefix("torch.")}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / "tokenizer.json")


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def _gather(value: T) -> Iterator[T]:
    """The value of every rank, in rank order."""
    if not dist.is_initialized():
        return iter([value])
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return iter(values)
