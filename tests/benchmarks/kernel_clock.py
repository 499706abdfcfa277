"""Clock: what a call takes on a device that reads from its memory, not from its cache."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import torch

_SLEEP_CYCLES = 20_000_000  # some milliseconds in which the host runs ahead of the device


def copies(moved_bytes: int, device: torch.device) -> int:
    """How many sets of arguments are used in turn: together more than four times what the second-level cache holds."""
    if device.type == "cpu":
        return 1
    return max(2, -(-4 * cache_bytes(device) // moved_bytes) + 1)


def cache_bytes(device: torch.device) -> int:
    """Of the second level."""
    found: int = torch.cuda.get_device_properties(device).L2_cache_size
    return found


def median_s(calls: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> float:
    """The median over `repeats` calls, which go around `calls`. Three rounds of warming up come first."""
    for call in list(calls) * (3 if device.type == "cuda" else 1):
        call()
    turns = [calls[i % len(calls)] for i in range(repeats)]
    if device.type == "cpu":
        return statistics.median(_by_the_clock(call) for call in turns)
    torch.cuda.synchronize(device)
    torch.cuda._sleep(_SLEEP_CYCLES)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for call, mark in zip(turns, marks[1:], strict=True):
        call()
        mark.record()
    torch.cuda.synchronize(device)
    return statistics.median(a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks))


def _by_the_clock(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def copy_bytes_per_s(device: torch.device, repeats: int) -> float:
    """What a copy within the device's memory reads and writes, as measured now: the ceiling of what is bound by it."""
    size = 2**30 if device.type == "cuda" else 2**20
    pairs = [[torch.empty(size, dtype=torch.uint8, device=device).random_() for _ in range(2)] for _ in range(2)]
    calls = [lambda a=a, b=b: b.copy_(a) for a, b in pairs]  # type: ignore[misc]
    return 2 * size / median_s(calls, repeats, device)
