"""Where the states of offloaded subgroups live: host memory, or a file that is read ahead and written behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ....errors import RunError

STATES = 2  # momentum and variance
_BYTES = 4  # all states are float32


class States(Protocol):
    """Momentum and variance of all elements, [2, elements], used subgroup by subgroup: between `take` and `put` the
    caller has those of one, [2, its elements]."""

    def resident(self) -> Tensor:
        """All of them: a tensor that shares their memory, or their file, which checkpoints read and write."""

    def ahead(self, index: int) -> None:
        """`take` of this subgroup comes soon."""

    def take(self, index: int) -> Tensor: ...

    def put(self, index: int) -> None: ...

    def settle(self) -> None:
        """Until everything that was put is where `resident` shows it."""


class HostStates:
    """In host memory. `subgroups` are consecutive ranges of the elements."""

    def __init__(self, subgroups: Sequence[range]):
        self._subgroups = subgroups
        self._all = torch.zeros(STATES, _end(subgroups))

    def resident(self) -> Tensor:
        return self._all

    def ahead(self, index: int) -> None:
        """They are there."""

    def take(self, index: int) -> Tensor:
        elements = self._subgroups[index]
        return self._all[:, elements.start : elements.stop]

    def put(self, index: int) -> None:
        """They are there."""

    def settle(self) -> None:
        """They are there."""


class FileStates:
    """In a file (ZeRO-Infinity, arXiv:2104.07857, section 6.2), read and written by threads through a fixed number of
    buffers: as many as subgroups are on their way, and those that are still being written.

    The file is scratch: it starts at zero and holds what a crash leaves, whose states come from a checkpoint.
    Raises RunError where the drive cannot hold or give them.
    """

    def __init__(self, subgroups: Sequence[range], folder: Path, *, buffers: int):
        self._subgroups, self._total = subgroups, _end(subgroups)
        self._path = folder / "states.bin"
        most = max(map(len, subgroups), default=0)
        self._free = [torch.zeros(STATES * most) for _ in range(min(buffers, len(subgroups)))]
        self._buffers: dict[int, Tensor] = {}
        self._reads: dict[int, Future[None]] = {}
        self._writes: dict[int, Future[None]] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="states")
        folder.mkdir(parents=True, exist_ok=True)
        _reserve(self._path, STATES * self._total * _BYTES)

    def resident(self) -> Tensor:
        size = STATES * self._total
        if not size:  # nothing can be mapped
            return torch.zeros(STATES, 0)
        return torch.from_file(str(self._path), shared=True, size=size, dtype=torch.float32).view(STATES, -1)

    def ahead(self, index: int) -> None:
        if index not in self._buffers:
            self._buffers[index] = self._buffer()
            self._reads[index] = self._threads.submit(_each, _read, self._path, self._places(index))

    def take(self, index: int) -> Tensor:
        self.ahead(index)
        _wait(self._reads.pop(index))
        return self._held(index)

    def put(self, index: int) -> None:
        self._writes[index] = self._threads.submit(_each, _write, self._path, self._places(index))

    def settle(self) -> None:
        while self._writes:
            self._reclaim()

    def _held(self, index: int) -> Tensor:
        """What a subgroup has of its buffer."""
        return self._buffers[index][: STATES * len(self._subgroups[index])].view(STATES, -1)

    def _places(self, index: int) -> list[tuple[int, Tensor]]:
        """Where in the file each row of the buffer belongs, in bytes."""
        start = self._subgroups[index].start
        return [((state * self._total + start) * _BYTES, row) for state, row in enumerate(self._held(index))]

    def _buffer(self) -> Tensor:
        """A free one; else that of the oldest write, when it is done."""
        if not self._free:
            self._reclaim()
        return self._free.pop()

    def _reclaim(self) -> None:
        oldest = next(iter(self._writes))
        _wait(self._writes.pop(oldest))
        self._free.append(self._buffers.pop(oldest))


def _end(subgroups: Sequence[range]) -> int:
    return subgroups[-1].stop if subgroups else 0


def _reserve(path: Path, size: int) -> None:
    """An empty file of so many bytes, all zero, for which the drive has room."""
    try:
        with path.open("wb") as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise RunError(f"optimizer states need {size} bytes in {path}: {error.strerror}") from error


def _each(move: Callable[[Path, int, Tensor], None], path: Path, places: Sequence[tuple[int, Tensor]]) -> None:
    for offset, tensor in places:
        move(path, offset, tensor)


def _read(path: Path, offset: int, into: Tensor) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        rest = _bytes(into)
        while rest:
            count = file.readinto(rest)
            if not count:
                raise OSError(f"{path} ends early")
            rest = rest[count:]


def _write(path: Path, offset: int, source: Tensor) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        rest = _bytes(source)
        while rest:
            rest = rest[file.write(rest) :]


def _bytes(tensor: Tensor) -> memoryview:
    data: Any = tensor.numpy()
    return memoryview(data).cast("B")


def _wait(future: Future[None]) -> None:
    try:
        future.result()
    except OSError as error:
        raise RunError(f"optimizer states on the drive: {error}") from error
