"""The trained model as Hugging Face files: safetensors, index, config.json, tokenizer.json.

A few tensors at a time are gathered, and one file at a time is held in memory: that of the rank that writes it.
Under a pipeline each stage gathers and writes its own layers.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from itertools import chain
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
from .names import Piece, pieces, stored_sizes
from .slots import slots_by_expert

SHARD_BYTES = 5 * 10**9  # transformers' own default for save_pretrained
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Names = list[str]
T = TypeVar("T")


def export(
    model: ParallelModel, plan: Plan, folder: Path, *, tokenizer: Path | None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write `folder`, complete or not at all. Called by all ranks together.

    Weights are stored in the precision of the products that training computed with: bf16 jobs as bfloat16,
    else float32. Buffers keep their own.
    """
    dtype = _DTYPES.get(plan.job.precision, torch.float32)
    temporary = folder.with_name(f"{folder.name}.tmp")
    if _rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _barrier()
    outgoing = Outgoing(model, dtype)
    shards = _shards(list(outgoing.sizes_bytes.items()), shard_bytes)
    first, total = _numbering(model, len(shards))
    _give_parts(model)
    for number, names in enumerate(shards, start=first):
        _write_shard(outgoing, names, temporary / _file_name(number, total))
    index = _gather_index(shards, first, total, outgoing.sizes_bytes)
    if _rank() == 0:
        _write_rest(temporary, plan, dtype, index, tokenizer)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync_folder(folder.parent)
    _barrier()


class Outgoing:
    """The tensors of this stage as a checkpoint of the family has them, made one after another."""

    def __init__(self, model: ParallelModel, dtype: torch.dtype):
        self._wanted = dtype
        self.writes = model.meshes.rank % model.meshes.stage_size == 0  # one rank of each stage
        states = chain(model.named_parameters(), model.named_buffers())
        self._states = {name: tensor for name, tensor in states if not _is_written_elsewhere(name, model)}
        self._pieces = pieces(model.shape, self._states)
        self._slots = {name: slots_by_expert(order) for name, order in model.orders.items()}
        sizes = stored_sizes(model.shape, {name: tuple(tensor.shape) for name, tensor in self._states.items()})
        dtypes = {name: self._dtype(own) for name, own in self._pieces.items()}
        self.sizes_bytes = {name: math.prod(size) * dtypes[name].itemsize for name, size in sizes.items()}
        self._gathered: dict[str, torch.Tensor] = {}

    def _dtype(self, own: list[Piece]) -> torch.dtype:
        """Of a tensor of these pieces. Buffers keep theirs: transformers has a router's corrections in float32."""
        state = self._states[own[0].parameter]
        return self._wanted if isinstance(state, torch.nn.Parameter) else state.dtype

    def make(self, name: str) -> torch.Tensor | None:
        """One tensor, on the rank that writes; all ranks of the stage call this in the same order."""
        own = self._pieces[name]
        parameters = [piece.parameter for piece in own]
        self._gathered = {each: held for each, held in self._gathered.items() if each in parameters}
        for each in parameters:
            if each not in self._gathered:
                self._gathered[each] = self._gather(each, self._dtype(own))
        if not self.writes:
            return None
        parts = [self._part(piece) for piece in own]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        return (whole.T if own[0].source.transposed else whole).contiguous().clone()

    def _part(self, piece: Piece) -> torch.Tensor:
        """Of an expert with replicas, the first."""
        whole, expert = self._gathered[piece.parameter], piece.source.expert
        if expert is None:
            return whole
        return whole[self._slots[piece.parameter][expert][0] if piece.parameter in self._slots else expert]

    def _gather(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        tensor = self._states[name].detach()
        if isinstance(tensor, DTensor):  # on the device: shards of swapped layers are on the host
            tensor = tensor.to(tensor.device_mesh.device_type).full_tensor()  # type: ignore[attr-defined]
        return tensor.to(device="cpu", dtype=dtype) if self.writes else tensor.new_empty(0)


def _is_written_elsewhere(name: str, model: ParallelModel) -> bool:
    """The last stage's copy of a tied embedding carries the embedding's name: the first stage writes it, as it does
    what all stages have a part of."""
    first = 0 in model.plan.configuration.stages_of(model.meshes.pp_rank)
    return not first and (name in model.spread or (name == EMBEDDING and model.shape.tied_embeddings))


def _give_parts(model: ParallelModel) -> None:
    """To the first stage, of what all stages have a part of: it writes these tensors before all others."""
    for name, tensor in model.named_parameters():
        if name in model.spread and _is_written_elsewhere(name, model):
            assert isinstance(tensor, DTensor)
            tensor.full_tensor()


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


def _write_shard(outgoing: Outgoing, names: Names, path: Path) -> None:
    made = {name: tensor for name in names if (tensor := outgoing.make(name)) is not None}
    if outgoing.writes:
        save_file(made, path, metadata={"format": "pt"})


def _gather_index(shards: list[Names], first: int, total: int, sizes_bytes: dict[str, int]) -> dict[str, object]:
    own = {name: _file_name(number, total) for number, names in enumerate(shards, start=first) for name in names}
    everywhere: dict[str, str] = {}
    total_size: dict[str, int] = {}
    for names, bytes_of in _gather((own, sizes_bytes)):
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
