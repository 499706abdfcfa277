"""The operations of training over sizes, timed on all groups of a shape at once, as a mesh runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch

from ..clusters.link_costs import OPERATIONS, Operation
from .links_group import Group
from .links_peers import Peers, first_line
from .links_shapes import Shape
from .timing import typical

SIZES = (1024, 8192, 65536, 2**18, 2**19, 2**20, 2**22, 2**24)
"""Bytes of whole buffers: from what latency decides to what bandwidth does."""
NEEDED_BYTES = 2**20  # measured whatever the budget
_ROUNDS = range(3, 16)


@dataclass(slots=True)
class _Case:
    """One operation at one size. Workers that are in no group of the shape have a call that does nothing."""

    operation: Operation
    size_bytes: int
    call: Callable[[], object]
    first_s: float  # of the slowest worker
    calls: int = 1  # of one batch
    samples: list[float] = field(default_factory=list)


def measure_shape(peers: Peers, shape: Shape, budget_s: float) -> list[dict[str, Any]]:
    """Rows of this worker's group: scope, members, operation, bytes and seconds, the slowest member's; empty where it
    has none.

    All sizes and operations are measured once a round, so that a disturbance hits one sample of each and not all of
    one. Raises RuntimeError when a member is gone or slower than the limit.
    """
    ranks = shape.of(peers.rank)
    group = None if ranks is None else peers.group(shape.name, ranks)
    end_s = perf_counter() + budget_s
    operations = [name for name in OPERATIONS if name != "send" or shape.members == 2]
    each_s = budget_s / len(operations) / len(SIZES)
    cases = [case for name in operations for case in _cases(peers, group, name, each_s)]
    share_s = max(0.0, peers.largest([end_s - perf_counter()])[0]) / _ROUNDS.start  # so that all call equally often
    for case in cases:
        case.calls = max(1, min(200, int(share_s / len(cases) / case.first_s)))
    try:
        _take(peers, cases, end_s)
        slowest = [] if group is None else group.largest([each for case in cases for each in case.samples])
    except RuntimeError as error:
        own = [each for case in cases for each in case.samples]
        raise Interrupted(first_line(error), [] if group is None else _rows(shape, group, cases, own)) from error
    return [] if group is None else _rows(shape, group, cases, slowest)


class Interrupted(RuntimeError):
    """A member is gone; `rows` is what this worker saw until then, by its own clock."""

    def __init__(self, words: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(words)
        self.rows = rows


def _take(peers: Peers, cases: list[_Case], end_s: float) -> None:
    for taken in _ROUNDS:
        for case in cases:
            peers.together()
            case.samples.append(_batch(peers.device, case.call, case.calls))
        late_s = peers.largest([perf_counter() - end_s])[0]
        if taken >= _ROUNDS.start and late_s > 0:
            break


def _cases(peers: Peers, group: Group | None, operation: Operation, each_s: float) -> list[_Case]:
    """The sizes for which there is time, small ones first, each called once or twice already."""
    found: list[_Case] = []
    for size in SIZES:
        call, size_bytes = (_nothing, size) if group is None else group.calls(operation, size)
        call()
        peers.together()
        first_s, whole = peers.largest([_batch(peers.device, call, 1), float(size_bytes)])
        found.append(_Case(operation, int(whole), call, max(first_s, 1e-6)))
        next_s = 4 * first_s * (_ROUNDS.start + 2)
        if size >= NEEDED_BYTES and next_s > 4 * each_s:
            break
    return found


def _nothing() -> None:
    """A worker that stands aside."""


def _batch(device: torch.device, call: Callable[[], object], calls: int) -> float:
    """Seconds of one call."""
    finish(device)
    begin = perf_counter()
    for _ in range(calls):
        call()
    finish(device)
    return (perf_counter() - begin) / calls


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rows(shape: Shape, group: Group, cases: list[_Case], seconds: list[float]) -> list[dict[str, Any]]:
    """`seconds`: the samples of all cases, one after another."""
    left, rows = iter(seconds), []
    for case in cases:
        samples = [next(left) for _ in case.samples]
        if not samples:
            continue
        messages = 2 if case.operation == "send" else 1  # there and back
        rows.append(
            {
                "scope": shape.scope,
                "members": shape.members,
                "ranks": list(group.ranks),
                "operation": case.operation,
                "bytes": case.size_bytes,
                "seconds": typical(samples) / messages,
            }
        )
    return rows
