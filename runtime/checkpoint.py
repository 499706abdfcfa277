"""Save and restore through torch.distributed.checkpoint, across any change of the mesh.

Tensors are stored under the model's global names, so stages may be cut and sharded otherwise on return, and experts
placed otherwise.
A save goes to a fresh folder `step-N.tmp` from a snapshot, while training goes on; when all ranks have written,
each records the hashes of its own files and of its tensors, and rank 0 publishes the folder by renaming it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from ..errors import RunError, UnrecoverableError
from ..kernels.galore import SPACE
from ..kernels.optimizer import MOMENTS, FusedAdamW
from .manifest import (
    FileRecord,
    Manifest,
    aside,
    complete_checkpoints,
    damage,
    folder_name,
    prune,
    publish,
    read_manifest,
    record_files,
    remove_unfinished,
    set_aside,
)
from .metadata import Reader
from .parallel.expert.copies import Copies
from .slot_planner import SlotLoadPlanner, SlotSavePlanner
from .slots import Order, Orders
from .sums import Part, changed, parts_of, totals

_POLL_S = 0.05
_STATES = ("exp_avg", "exp_avg_sq", SPACE)  # AdamW's, arXiv:1711.05101; GaLore's
_FEEDBACK = "feedback."  # of compressed gradients, by rank


class NamedParameters(Protocol):
    """What a checkpoint needs of a model: its local parameters and its other states under their global names."""

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]: ...

    def named_residuals(self) -> Iterator[tuple[str, torch.Tensor]]: ...

    @property
    def orders(self) -> Orders: ...

    @property
    def copies(self) -> Copies | None: ...


@dataclass(frozen=True, slots=True)
class Position:
    """How far training is."""

    step: int
    sample_index: int


@dataclass(frozen=True, slots=True)
class Restored:
    """Where training goes on, which newer checkpoints could not be used, by file, and what was left of the one used."""

    position: Position
    damaged: tuple[str, ...] = ()
    left: str = ""


class Checkpointer:
    """Checkpoints of one run. Every method is called by all ranks together."""

    def __init__(
        self, root: Path, model: NamedParameters, optimizer: torch.optim.Optimizer,
        *, fingerprint: str, keep_last: int, timeout_s: float,
    ):  # fmt: skip
        self._root, self._model, self._optimizer = root, model, optimizer
        self._fingerprint, self._keep_last, self._timeout_s = fingerprint, keep_last, timeout_s
        # Saving talks to its peers while training does: it needs a group of its own.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, position: Position) -> None:
        """Snapshot now, write in the background. Waits for the save before. Raises RunError when that one failed."""
        self.wait()
        temporary = self._root / f"{folder_name(position.step)}.tmp"
        state = self._state()
        if self._model.copies is not None:  # only one of them is written
            self._model.copies.check(lambda name: [state[each] for each in _names_of(name) if each in state])
        parts = parts_of(state, self._orders())
        written = async_save(
            state, storage_writer=FileSystemWriter(temporary), planner=SlotSavePlanner(self._orders()),
            process_group=self._group,
        )  # fmt: skip
        self._pending = self._finisher.submit(self._finish, written, temporary, position, parts)

    def wait(self) -> None:
        """Until the save in progress is published. Raises RunError when it failed."""
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result()
        except (Exception, CheckpointException) as error:  # CheckpointException is no Exception
            raise RunError(f"saving a checkpoint failed on rank {self._rank}: {error}") from error
        if pending is not None:
            dist.barrier(self._group)  # published by rank 0 means published for all

    def close(self) -> None:
        """Finish the save in progress."""
        self.wait()
        self._finisher.shutdown()

    def restore(self) -> Restored:
        """Load the newest intact checkpoint, if there is one; set damaged ones aside.

        Raises UnrecoverableError when there are checkpoints but none is intact, or when one does not fit the model.
        """
        if self._rank == 0:
            remove_unfinished(self._root)
        found = self._from_rank_0([path.name for path in complete_checkpoints(self._root)])
        damaged: list[str] = []
        for name in found:
            wrong = self._verify(self._root / name)
            if not wrong:
                position, left = self._load(self._root / name)
                return Restored(position, tuple(damaged), left)
            damaged += [f"{name}/{why}" for why in wrong]
        damaged = damaged or self._from_rank_0([path.name for path in aside(self._root)])
        if damaged:  # also in the launch after this one: only a person may decide to begin again
            rule = f"delete what is in {self._root} to train from the start"
            raise UnrecoverableError(f"no checkpoint is intact; {rule}:\n  " + "\n  ".join(damaged))
        return Restored(Position(0, 0))

    def _verify(self, folder: Path) -> list[str]:
        """What is wrong with a checkpoint; the ranks share the reading. A damaged one is set aside."""
        parts: list[list[str]] = [[] for _ in range(self._world)]
        dist.all_gather_object(parts, damage(folder, self._rank, self._world), group=self._group)
        wrong = [why for part in parts for why in part]
        if wrong and self._rank == 0:
            set_aside(folder)
        return wrong

    def _load(self, folder: Path) -> tuple[Position, str]:
        """Returns also what of the checkpoint is not used, or not there."""
        manifest, state = read_manifest(folder), self._state()
        try:
            left = self._leave_residuals(state, folder, manifest)
            planner = SlotLoadPlanner(self._orders())
            load(state, storage_reader=Reader(folder), planner=planner, process_group=self._group)
        except (Exception, CheckpointException) as error:
            raise UnrecoverableError(f"checkpoint {folder.name} does not fit this model: {error}") from error
        self._compare(folder, manifest, state)
        for each in self._optimizer.state.values():
            each["step"].fill_(manifest.step)
        return Position(manifest.step, manifest.sample_index), left

    def _leave_residuals(self, state: dict[str, torch.Tensor], folder: Path, manifest: Manifest) -> str:
        """Residuals are of one plan and its ranks: take them out of `state` where the checkpoint has none for it. They
        then begin at zero, as in a first step: half a step of the grid, once."""
        found = Reader(folder).read_metadata().state_dict_metadata
        held = any(name.startswith(_FEEDBACK) for name in found)
        wanted = [name for name in state if name.startswith(_FEEDBACK)]
        if wanted and manifest.plan == self._fingerprint and all(name in found for name in wanted):
            return ""
        for name in wanted:
            del state[name]
        if not wanted:
            return "the residuals of compressed gradients: they are not compressed any more" if held else ""
        return "the residuals of compressed gradients: the checkpoint has none of this plan, so they begin at zero"

    def _compare(self, folder: Path, manifest: Manifest, state: dict[str, torch.Tensor]) -> None:
        """Raises UnrecoverableError where a tensor of `state`, which was read, is not what was saved: files are whole,
        so it is read wrongly.

        Rank 0 looks for all: the parts of many ranks would be too much for each of them."""
        ranks: list[list[Part]] | None = [[] for _ in range(self._world)] if self._rank == 0 else None
        dist.gather_object(parts_of(state, self._orders()), ranks, dst=0, group=self._group)
        wrong = self._from_rank_0([] if ranks is None else _differences(manifest, ranks))
        if wrong:
            raise UnrecoverableError(f"checkpoint {folder.name} was read to other values than were saved: {wrong}")

    def _state(self) -> dict[str, torch.Tensor]:
        """Weights and optimizer states by global name; loading writes into the same tensors."""
        state = {f"model.{name}": buffer for name, buffer in self._model.named_buffers()}
        state |= {f"{_FEEDBACK}{name}": residual for name, residual in self._model.named_residuals()}
        for name, parameter in self._model.named_parameters():
            state[f"model.{name}"] = parameter.detach()
            moments = self._optimizer.state[parameter] or _no_steps(self._optimizer, parameter)
            state |= {f"optimizer.{name}.{key}": moments[key] for key in _STATES if key in moments}
        return state

    def _orders(self) -> dict[str, Order]:
        """Of stacked experts and their states, by their names in the state."""
        return {each: order for name, order in self._model.orders.items() for each in _names_of(name)}

    def _from_rank_0(self, names: list[str]) -> list[str]:
        shared = [names]
        dist.broadcast_object_list(shared, src=0, group=self._group)
        return shared[0]

    def _finish(self, written: Any, temporary: Path, position: Position, parts: list[Part]) -> None:
        """In the background: hash what this rank wrote; rank 0 gathers the hashes through files, compares replicas and
        publishes."""
        written.result()
        prefix = f"__{self._rank}_"
        own = [path.name for path in temporary.iterdir() if path.name.startswith(prefix)]
        own += [".metadata"] if self._rank == 0 else []
        records = {name: record.model_dump() for name, record in record_files(temporary, own).items()}
        note = temporary / f"hashes-{self._rank:05}.json"
        content = {"files": records, "parts": [asdict(part) for part in parts]}
        note.with_suffix(".part").write_text(json.dumps(content))
        note.with_suffix(".part").rename(note)
        if self._rank == 0:
            files, ranks = self._gather_notes(temporary)
            manifest = Manifest(
                step=position.step, sample_index=position.sample_index,
                plan=self._fingerprint, world=self._world, files=files, tensors=totals(ranks),
            )  # fmt: skip
            publish(temporary, self._root / folder_name(position.step), manifest)
            prune(self._root, self._keep_last)

    def _gather_notes(self, temporary: Path) -> tuple[dict[str, FileRecord], list[list[Part]]]:
        files: dict[str, FileRecord] = {}
        ranks: list[list[Part]] = []
        deadline = time.monotonic() + self._timeout_s
        for rank in range(self._world):
            note = temporary / f"hashes-{rank:05}.json"
            while not note.exists():
                if time.monotonic() > deadline:
                    raise RunError(f"rank {rank} wrote its part of {temporary.name} but never its hashes")
                time.sleep(_POLL_S)
            content = json.loads(note.read_text())
            files |= {name: FileRecord(**record) for name, record in content["files"].items()}
            ranks.append([Part.read(each) for each in content["parts"]])
            note.unlink()
        return files, ranks


def _differences(manifest: Manifest, ranks: list[list[Part]]) -> list[str]:
    """Tensors that are not what was saved, or what is said of replicas that differ."""
    try:
        return changed(manifest.tensors, totals(ranks))
    except RunError as error:
        return [str(error)]


def _names_of(name: str) -> list[str]:
    """What the state has of a parameter."""
    return [f"model.{name}", *(f"optimizer.{name}.{key}" for key in _STATES)]


def _no_steps(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """AdamW's state of a parameter before its first step, as AdamW would make it."""
    if isinstance(optimizer, FusedAdamW):
        return optimizer.begin(parameter)
    group = optimizer.param_groups[0]
    on_device = group.get("fused") or group.get("capturable")
    state: dict[str, torch.Tensor] = optimizer.state[parameter]
    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device if on_device else "cpu")
    for key in MOMENTS:
        state[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False)
    return state
