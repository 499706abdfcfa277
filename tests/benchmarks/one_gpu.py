"""MFU of a 1B-class Llama on one GPU: the built-in runtime beside the same stack in plain torch.compile.

    scripts/side-by-side --gpu [--rounds 7] [--steps 5] [--device cuda]

In turns in one process, as on the CPU; MFU counts model FLOPs over `--peak-tflops`, by
default those of an H100 SXM or H200. `--device cpu` walks the same road with a tiny model: that has run; no GPU has.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from handwritten import compiled
from handwritten.model import Size
from ours import config_of, make_loop
from plans import make_plan

BAR = 1.0
SIZES = {
    "cuda": Size(
        hidden=2048, intermediate=8192, layers=16, heads=32, kv_heads=8, vocab=32768, seq_len=4096
    ),  # Llama 3.2 1B, but for a smaller vocabulary
    "cpu": Size(hidden=128, intermediate=384, layers=2, heads=4, kv_heads=2, vocab=512, seq_len=128),
}
SEQUENCES = {"cuda": 4, "cpu": 2}
MICROBATCH = {"cuda": 2, "cpu": 1}


def sides(size: Size, device: torch.device, compiles: bool, folder: Path) -> list[Callable[[], object]]:
    """A step of ours, and one by hand."""
    kind = device.type
    options = {"microbatch": MICROBATCH[kind], "global_batch": SEQUENCES[kind], "seq_len": size.seq_len}
    tokens = np.random.default_rng(0).integers(0, size.vocab, 10_000_000).astype(np.uint16)
    plan = make_plan(config_of(size), **options, precision="bf16")
    loop = make_loop(plan, tokens, device, folder, compiles=compiles)
    by_hand = compiled.make_step(size, MICROBATCH[kind], device)
    data = batches(tokens, size, SEQUENCES[kind], device)

    def hand() -> None:
        by_hand(next(data))
        if kind == "cuda":
            torch.cuda.synchronize(device)

    return [loop.step, hand]


def batches(tokens: np.ndarray[Any, np.dtype[Any]], size: Size, sequences: int, device: torch.device) -> Any:
    """Random windows of a token file."""
    generator = np.random.default_rng(0)
    while True:
        starts = generator.integers(0, len(tokens) - size.seq_len - 1, sequences)
        windows = np.stack([tokens[start : start + size.seq_len + 1] for start in starts])
        yield torch.from_numpy(windows.astype(np.int64)).to(device)


def seconds(step: Callable[[], object], steps: int) -> float:
    """Of `steps` steps, each of which waits for the device."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="of each side in a round")
    parser.add_argument("--device", choices=tuple(SIZES), default="cuda")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 of the device")
    parser.add_argument("--eager", action="store_true", help="without compiling ours")
    asked = parser.parse_args()
    size, device = SIZES[asked.device], torch.device(asked.device)
    with tempfile.TemporaryDirectory() as folder:
        ours, by_hand = sides(size, device, not asked.eager, Path(folder))
        for side in (ours, by_hand):
            seconds(side, 3)
        found = []
        for number in range(asked.rounds):
            order = (ours, by_hand) if number % 2 == 0 else (by_hand, ours)
            taken = {side: seconds(side, asked.steps) for side in order}
            found.append((taken[ours], taken[by_hand]))
    tokens = asked.steps * SEQUENCES[asked.device] * size.seq_len
    ratio = statistics.median(theirs / mine for mine, theirs in found)
    print(f"{size}, {size.parameters / 1e9:.2f}B parameters")
    for name, taken_s in zip(("ours", "by hand"), zip(*found, strict=True), strict=True):
        rate = tokens / statistics.median(taken_s)
        mfu = rate * size.flops_per_token / (asked.peak_tflops * 1e12)
        print(f"{name:8} {rate:10,.0f} tokens/s  MFU {mfu:6.1%}")
    print(f"ratio {ratio:.3f}, bar {BAR}")
    return int(ratio < BAR)


if __name__ == "__main__":
    sys.exit(main())
