"""Speed of the built-in runtime beside the same training by hand, on this machine's CPU.

    scripts/side-by-side [--rounds 9] [--steps 3]

Both train in the same processes, in turns: in each round each side does a few steps, whose order changes from round to
round, so that whatever else the machine does falls on both. The answer is the median of the rounds' ratios. Beside it
stands the ratio of the CPU time that all ranks used, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from handwritten import ddp, fsdp
from handwritten.model import Size
from harness import run_ranks
from ours import config_of, make_loop
from plans import make_plan

BAR = 0.95
SIZE = Size()
RANKS, MICROBATCH, MICROBATCHES = 4, 1, 2


@dataclass(frozen=True, slots=True)
class Contest:
    """A plan and what one writes by hand for it."""

    plan: dict[str, Any]
    by_hand: Callable[..., Callable[[torch.Tensor], float]]


CONTESTS = {
    "dp4 zero0 | DistributedDataParallel": Contest({"dp": RANKS, "zero": 0}, ddp.make_step),
    "dp4 zero3 | FSDP2 fully_shard": Contest({"dp": RANKS, "zero": 3}, fsdp.make_step),
}


Taken = tuple[float, float]
"""Seconds by the clock, and of this rank's CPU time."""


def rank(name: str, rounds: int, steps: int, folder: Path) -> list[tuple[Taken, Taken]]:
    """What each round took, ours and by hand."""
    contest, device = CONTESTS[name], torch.device("cpu")
    options = {"microbatch": MICROBATCH, "global_batch": RANKS * MICROBATCH * MICROBATCHES, "seq_len": SIZE.seq_len}
    tokens = np.random.default_rng(0).integers(0, SIZE.vocab, 1_000_000).astype(np.uint16)
    loop = make_loop(make_plan(config_of(SIZE), **contest.plan, **options), tokens, device, folder)
    by_hand = contest.by_hand(SIZE, MICROBATCH, device)
    data = iter(batches(tokens, MICROBATCH * MICROBATCHES))
    sides: list[Callable[[], object]] = [loop.step, lambda: by_hand(next(data))]
    for side in sides:
        _taken(side, 2)
    found = []
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        taken = {side: _taken(sides[side], steps) for side in order}
        found.append((taken[0], taken[1]))
    return found


def batches(tokens: np.ndarray[Any, np.dtype[Any]], sequences: int) -> Any:
    """Random windows of a token file, as one reads them by hand."""
    generator = np.random.default_rng(dist.get_rank())
    while True:
        starts = generator.integers(0, len(tokens) - SIZE.seq_len - 1, sequences)
        yield torch.from_numpy(np.stack([tokens[s : s + SIZE.seq_len + 1] for s in starts]).astype(np.int64))


def _taken(step: Callable[[], object], steps: int) -> Taken:
    dist.barrier()
    started, used = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    used = time.process_time() - used
    dist.barrier()
    return time.perf_counter() - started, used


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of a contest: tokens/s of both, the ratio with its range, and the ratio of CPU time."""

    ours: float
    by_hand: float
    ratio: float
    lowest: float
    highest: float
    cpu: float


def contest(name: str, rounds: int, steps: int) -> Result:
    """Both sides in turns, in one world of processes."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = run_ranks(RANKS, rank, name, rounds, steps, Path(folder), timeout_s=1800.0)
    tokens = steps * RANKS * MICROBATCH * MICROBATCHES * SIZE.seq_len
    clock = [(ours[0], theirs[0]) for ours, theirs in ranks[0]]
    used = [tuple(sum(found[number][side][1] for found in ranks) for side in (0, 1)) for number in range(rounds)]
    ratios = sorted(theirs / ours for ours, theirs in clock)
    return Result(
        ours=tokens / statistics.median(ours for ours, _ in clock),
        by_hand=tokens / statistics.median(theirs for _, theirs in clock),
        ratio=statistics.median(ratios),
        lowest=ratios[0],
        highest=ratios[-1],
        cpu=statistics.median(theirs / ours for ours, theirs in used),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="of each side in a round")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{SIZE}, {RANKS} processes, {MICROBATCHES} microbatches of {MICROBATCH}; tokens/s, median of rounds")
    print(f"{'plan | by hand':40} {'ours':>8} {'by hand':>8} {'ratio':>6}  {'rounds':>11} {'CPU':>6}  bar {BAR}")
    worst = 1.0
    for name in CONTESTS:
        found = contest(name, asked.rounds, asked.steps)
        spread = f"{found.lowest:.2f}-{found.highest:.2f}"
        print(f"{name:40} {found.ours:8.0f} {found.by_hand:8.0f} {found.ratio:6.3f}  {spread:>11} {found.cpu:6.3f}")
        worst = min(worst, found.ratio)
    return int(worst < BAR)


if __name__ == "__main__":
    sys.exit(main())
