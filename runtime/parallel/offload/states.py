"""Where the states of offloaded subgroups live: host memory, or files that are read ahead and written behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ....errors import RunError

STATES = 2  # momentum and variance
_BYTES = 4  # all states are float32


class States(Protocol):
    """Momentum and variance of every subgroup, [2, elements] each. Between `take` and `put` the caller has them."""

    def resident(self, index: int) -> Tensor:
        """A tensor that shares its memory, or its file, with the states: what checkpoints read and write."""

    def ahead(self, index: int) -> None:
        """`take` of this subgroup comes soon."""

    def take(self, index: int) -> Tensor: ...

    def put(self, index: int) -> None: ...

    def settle(self) -> None:
        """Until everything that was put is where `resident` shows it."""


class HostStates:
    """In host memory."""

    def __init__(self, sizes: Sequence[int]):
        self._all = [torch.zeros(STATES, size) for size in sizes]

    def resident(self, index: int) -> Tensor:
        return self._all[index]

    def ahead(self, index: int) -> None:
        """They are there."""

    def take(self, index: int) -> Tensor:
        return self._all[index]

    def put(self, index: int) -> None:
        """They are there."""

    def settle(self) -> None:
        """They are there."""


class FileStates:
    """One file a subgroup (ZeRO-Infinity, arXiv:2104.07857, section 6.2), read and written by threads through a fixed
    number of buffers.

    The files are scratch: they start at zero and hold what a crash leaves, whose states come from a checkpoint.
    Raises RunError where the drive cannot hold or give them.
    """

    def __init__(self, sizes: Sequence[int], folder: Path, *, buffers: int):
        self._sizes = list(sizes)
        self._paths = [folder / f"states-{index:05}.bin" for index in range(len(sizes))]
        self._free = [torch.zeros(STATES * max(sizes, default=0)) for _ in range(min(buffers, len(sizes)))]
        self._buffers: dict[int, Tensor] = {}
        self._reads: dict[int, Future[None]] = {}
        self._writes: dict[int, Future[None]] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="states")
        folder.mkdir(parents=True, exist_ok=True)
        for path, size in zip(self._paths, self._sizes, strict=True):
            _reserve(path, STATES * size * _BYTES)

    def resident(self, index: int) -> Tensor:
        size = self._sizes[index]
        mapped = torch.from_file(str(self._paths[index]), shared=True, size=STATES * size, dtype=torch.float32)
        return mapped.view(STATES, size)

    def ahead(self, index: int) -> None:
        if index not in self._buffers:
            self._buffers[index] = self._buffer()
            self._reads[index] = self._threads.submit(_read, self._paths[index], self._piece(index))

    def take(self, index: int) -> Tensor:
        self.ahead(index)
        _wait(self._reads.pop(index))
        return self._piece(index).view(STATES, -1)

    def put(self, index: int) -> None:
        self._writes[index] = self._threads.submit(_write, self._paths[index], self._piece(index))

    def settle(self) -> None:
        while self._writes:
            self._reclaim()

    def _piece(self, index: int) -> Tensor:
        return self._buffers[index][: STATES * self._sizes[index]]

    def _buffer(self) -> Tensor:
        """A free one; else that of the oldest write, when it is done."""
        if not self._free:
            self._reclaim()
        return self._free.pop()

    def _reclaim(self) -> None:
        oldest = next(iter(self._writes))
        _wait(self._writes.pop(oldest))
        self._free.append(self._buffers.pop(oldest))


def _reserve(path: Path, size: int) -> None:
    """An empty file of so many bytes, all zero, for which the drive has room."""
    try:
        with path.open("wb") as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise RunError(f"optimizer states need {size} bytes in {path}: {error.strerror}") from error


def _read(path: Path, into: Tensor) -> None:
    with path.open("rb", buffering=0) as file:
        rest = _bytes(into)
        while rest:
            count = file.readinto(rest)
            if not count:
                raise OSError(f"{path} ends early")
            rest = rest[count:]


def _write(path: Path, source: Tensor) -> None:
    with path.open("r+b", buffering=0) as file:
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
