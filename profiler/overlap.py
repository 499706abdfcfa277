"""Overlap: what large products and a collective take beside each other, over what each takes alone.

A collective is started, and products are run one after another until it is done: each is beside the other all along.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import distributed as dist

from ..units import significant
from .parts import Found, Result, Setting
from .timing import typical

_SIZE = {"cpu": 384, "cuda": 8192}  # of a square product: long beside its launch, short beside the collective
_BYTES = {"cpu": 32 * 2**20, "cuda": 2**30}
_DTYPE = {"cpu": torch.float32, "cuda": torch.bfloat16}
_PARTS = 32  # of these bytes at least one is sent, however slow the links
_ROUNDS = 20
_FEWEST = 3


class Round(NamedTuple):
    """Seconds of one round: a product and the collective alone, then beside each other."""

    product_s: float
    collective_s: float
    product_beside_s: float
    collective_beside_s: float


def measure(setting: Setting) -> Result:
    """Rounds until the budget is over; none for a worker alone."""
    if setting.world == 1:
        return {"rounds": []}
    finish = torch.cuda.synchronize if setting.device.type == "cuda" else _nothing
    product, buffer = _product(setting.device), buffer_of(setting, finish)

    def start() -> Any:
        return dist.all_reduce(buffer, op=dist.ReduceOp.MAX, async_op=True)

    _round(product, start, finish)
    rounds, begin = list[Round](), perf_counter()
    for _ in range(_agreed(setting, _round(product, start, finish))):
        rounds.append(_round(product, start, finish))
        if len(rounds) >= _FEWEST and _all_over(perf_counter() - begin > setting.budget_s, setting.device):
            break
    return {"rounds": [list(each) for each in rounds]}


def buffer_of(setting: Setting, finish: Callable[[], object]) -> torch.Tensor:
    """What a collective sums up: as much as leaves the budget time for the fewest rounds, by what a small part of it
    takes the slowest worker."""
    part = torch.ones(_BYTES[setting.device.type] // 4 // _PARTS, device=setting.device)
    dist.all_reduce(part, op=dist.ReduceOp.MAX)  # sets up
    finish()
    seconds = _timed(lambda: dist.all_reduce(part, op=dist.ReduceOp.MAX), finish)
    slowest = torch.tensor(seconds, device=setting.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    collectives = 2 * (_FEWEST + 2)  # of every round two, and two rounds before the first that counts
    parts = int(setting.budget_s / (collectives * float(slowest)))
    return torch.ones(part.numel() * max(1, min(_PARTS, parts)), device=setting.device)


def _nothing() -> None:
    """On CPU an operation has finished when it returns."""


def _product(device: torch.device) -> Callable[[], object]:
    size, dtype = _SIZE[device.type], _DTYPE[device.type]
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b


def _agreed(setting: Setting, first: Round) -> int:
    """Rounds that the budget allows, the same on all workers: those of the slowest."""
    each_s = first.collective_s + first.collective_beside_s + 4 * first.product_s
    count = torch.tensor([max(_FEWEST, min(_ROUNDS, int(setting.budget_s / each_s)))], device=setting.device)
    dist.all_reduce(count, op=dist.ReduceOp.MIN)
    return int(count)


def _all_over(over: bool, device: torch.device) -> bool:
    """Whether any worker's time is over: all stop at the same round."""
    flag = torch.tensor([int(over)], device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def _round(product: Callable[[], object], start: Callable[[], Any], finish: Callable[[], object]) -> Round:
    alone = typical([_timed(product, finish) for _ in range(4)])
    begin = perf_counter()
    start().wait()
    finish()
    collective_s = perf_counter() - begin
    dist.barrier()
    begin, work, done = perf_counter(), start(), 0
    while done == 0 or not work.is_completed():
        product()
        finish()
        done += 1
    beside_s = perf_counter() - begin
    work.wait()
    return Round(alone, collective_s, beside_s / done, beside_s)


def _timed(run: Callable[[], object], finish: Callable[[], object]) -> float:
    begin = perf_counter()
    run()
    finish()
    return perf_counter() - begin


def assemble(cluster: dict[str, Any], found: Found) -> None:
    """`overlap` of every device: medians over rounds and workers."""
    for number, group in enumerate(cluster["node_groups"]):
        rounds = [Round(*each) for result in found.of("overlap", number) for each in result["rounds"]]
        if rounds:
            group["device"]["calibration"]["overlap"] = slowdowns(rounds)


def slowdowns(rounds: list[Round]) -> dict[str, float]:
    """Of compute and of the collective, never below 1."""
    compute = median(each.product_beside_s / each.product_s for each in rounds)
    collective = median(each.collective_beside_s / each.collective_s for each in rounds)
    return {"compute": max(1.0, significant(compute, 3)), "collective": max(1.0, significant(collective, 3))}
