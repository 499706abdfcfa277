"""Stopping between two steps: a signal asks, and all ranks agree on the step after which they stop."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import torch
import torch.distributed as dist

from ..clusters.local import host_text
from .signals import LAUNCHED


def stop_signals() -> Sequence[signal.Signals]:
    """Signals on which this worker finishes its step, writes a checkpoint and leaves."""
    return (signal.SIGUSR1,) if os.environ.get(LAUNCHED) else (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class StopWish:
    """Remembers that a signal asked this process to stop. Made before anybody can know the process."""

    def __init__(self) -> None:
        self.asked = False
        for number in stop_signals():
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


class Agreement:
    """What the ranks tell each other during a step: who was asked to stop, and the largest memory peak."""

    def __init__(self, wish: StopWish, device: torch.device):
        self._wish, self._device = wish, device
        self._values = torch.zeros(2, dtype=torch.int64)
        self._work: dist.Work | None = None

    def begin(self) -> None:
        """Start asking; it goes on beside the step."""
        self._values = torch.tensor([int(self._wish.asked), peak_memory_bytes(self._device)])
        self._work = dist.all_reduce(self._values, dist.ReduceOp.MAX, async_op=True)

    def end(self) -> tuple[bool, int]:
        """Whether all stop after this step, and the largest peak of any rank in bytes."""
        if self._work is not None:
            self._work.wait()
        stop, peak = self._values.tolist()
        return bool(stop), peak


def peak_memory_bytes(device: torch.device) -> int:
    """Most that was allocated on a GPU; most that was resident, of a process on the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Of this process. Linux counts what the one that started it held into getrusage(2), and not into its status."""
    if found := re.search(r"VmHWM:\s+(\d+) kB", host_text("/proc/self/status")):
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
