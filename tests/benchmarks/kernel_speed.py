"""Speed of every kernel on this GPU, beside plain PyTorch, torch.compile and, where it is installed, Liger-Kernel.

    scripts/kernel-bench [--only rms_norm swiglu] [--dtype bf16] [--repeats 50] [--out kernels.json]
    scripts/kernel-bench --cpu        the same road with tiny sizes, in Triton's interpreter: its times say nothing

Medians over calls whose arguments change from call to call and together exceed four times the second-level cache. The
share is of what a copy on this device reaches when measured now, and of the datasheet's bandwidth; bytes are those that
the kernel declares. A backward pass is timed by itself. Before that, results are compared with double precision.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from kernel_clock import copies, copy_bytes_per_s, median_s
from kernel_peers import sides

from meshwright.clusters.devices import bundled_devices, device_mapping
from meshwright.kernels.examples.example import DTYPES, example
from meshwright.kernels.kernel import Kernel, Sizes
from meshwright.kernels.registry import KERNELS
from meshwright.units import parse_rate

TARGETS = {
    "norm": (88, 70),
    "merge": (88, None),
    "glu": (88, 88),
    "rotary": (80, 80),
    "permute": (80, 80),
    "adamw": (88, None),
    "quantise": (88, None),
    "reduce": (88, None),
}
"""Percent of the measured copy that forward and backward should reach on an H200."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pass of one kernel at one size. Times in microseconds; None: no such peer, or it failed, as printed."""

    kernel: str
    sizes: dict[str, int]
    dtype: str
    backward: bool
    moved_bytes: int
    times_us: dict[str, float | None]
    copy_percent: float
    datasheet_percent: float | None
    target_percent: int | None


def target(name: str, backward: bool) -> int | None:
    """Of a kernel, by what its name holds."""
    found = next((pair for part, pair in TARGETS.items() if part in name), None)
    return None if found is None else found[backward]


def leaves(kernel: Kernel, sizes: Sizes, dtype: str, device: str, seed: int) -> tuple[dict[str, Any], list[Any]]:
    """Arguments, and those that have gradients."""
    made = example(kernel, sizes, dtype, seed=seed, device=device)
    given = dict(made.arguments)
    for name in made.differentiable:
        given[name] = given[name].detach().requires_grad_()
    return given, [given[name] for name in made.differentiable]


def several(result: Any) -> list[torch.Tensor]:
    """Outputs of one call."""
    return [result] if isinstance(result, torch.Tensor) else list(result)


def passes(call: Callable[..., Any], sets: list[tuple[dict[str, Any], list[Any]]], backward: bool) -> list[Any]:
    """What is timed, for each set of arguments: the forward pass without, or the backward pass with its graph kept."""
    if not backward:
        return [lambda given=given: _without_gradients(call, given) for given, _ in sets]
    found = []
    for given, wanted in sets:
        outputs = [x for x in several(call(**given)) if x.requires_grad]
        slopes = [torch.randn_like(x) for x in outputs]
        found.append(
            lambda outputs=outputs, wanted=wanted, slopes=slopes: torch.autograd.grad(
                outputs, wanted, slopes, retain_graph=True, allow_unused=True
            )
        )
    return found


def _without_gradients(call: Callable[..., Any], given: dict[str, Any]) -> None:
    with torch.no_grad():
        call(**given)


def check(kernel: Kernel, sizes: Sizes, dtype: str, device: str) -> None:
    """Raise AssertionError where ours is not as near double precision as it declares."""
    given, _ = leaves(kernel, sizes, dtype, device, 99)
    calls = sides(kernel, "eager")
    with torch.no_grad():
        found = several(calls["ours"](**given))
        wide = {name: x.double() if _is_float(x) else x for name, x in given.items()}
        exact = several(calls["eager"](**wide))
    allowed = kernel.tolerance[dtype]
    for x, y in zip(found, exact, strict=True):
        torch.testing.assert_close(x.double(), y.double(), rtol=allowed.relative, atol=allowed.absolute)


def _is_float(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def measure(kernel: Kernel, sizes: Sizes, dtype: str, device: str, repeats: int, ceilings: Ceilings) -> Iterator[Row]:
    """Rows of both passes."""
    check(kernel, sizes, dtype, device)
    where = torch.device(device)
    for backward in (False, True):
        count = kernel.backward if backward else kernel.forward
        if count is None:
            continue
        moved = count(sizes, dtype).moved_bytes
        times: dict[str, float | None] = {}
        for side, call in sides(kernel, "inductor" if device == "cuda" else "aot_eager").items():
            try:
                sets = [leaves(kernel, sizes, dtype, device, seed) for seed in range(copies(moved, where))]
                times[side] = median_s(passes(call, sets, backward), repeats, where) * 1e6
            except (ImportError, RuntimeError, TypeError) as problem:
                if side == "ours":
                    raise
                times[side] = None
                print(f"  {kernel.name}: no {side}: {str(problem).splitlines()[0]}", file=sys.stderr)
        reached = moved / (times["ours"] or 0.0) * 1e6
        sheet = None if ceilings.datasheet is None else 100 * reached / ceilings.datasheet
        share = 100 * reached / ceilings.copy
        yield Row(kernel.name, dict(sizes), dtype, backward, moved, times, share, sheet, target(kernel.name, backward))


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Bytes a second: of a copy that was measured, and of the datasheet (None: this device is not in our list)."""

    copy: float
    datasheet: float | None


def datasheet(device_name: str) -> float | None:
    """Bandwidth of the bundled device whose name begins as the device calls itself."""
    words = device_name.lower().replace("-", " ").split()
    kinds = [name for name in bundled_devices() if name.split("-")[0] in words]
    if not kinds:
        return None
    memory = next((name for name in kinds if name.split("-")[-1] in words), kinds[-1])
    return parse_rate(device_mapping(memory)["memory_bandwidth"])


def line(row: Row) -> str:
    """One line of the table."""
    sizes = "x".join(str(size) for size in row.sizes.values())
    label = f"{row.kernel} {'backward' if row.backward else 'forward'}"
    ours = row.times_us["ours"] or 0.0
    peers = "  ".join(_beside(row.times_us.get(side), ours) for side in ("eager", "compile", "liger"))
    sheet = "     -" if row.datasheet_percent is None else f"{row.datasheet_percent:5.1f}%"
    bar = "    " if row.target_percent is None else f"{row.target_percent:3d}%"
    numbers = f"{row.moved_bytes / 2**20:8.1f}  {ours:9.1f}  {row.copy_percent:5.1f}%  {bar}  {sheet}"
    return f"{label:30s} {sizes:24s} {row.dtype}  {numbers}  {peers}"


def _beside(time_us: float | None, ours: float) -> str:
    return "      -" if time_us is None else f"{time_us / ours:6.2f}x"


HEADER = (
    f"{'kernel':30s} {'sizes':24s} type  {'MiB':>8s}  {'us':>9s}    copy   bar   sheet   eager  compile  liger\n"
    "(peers: how many times as long as ours)"
)


def tiny(kernel: Kernel) -> dict[str, int]:
    """For the interpreter."""
    return {name: size.drawn // size.multiple * size.multiple for name, size in kernel.sizes.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], choices=[*KERNELS])
    parser.add_argument("--dtype", choices=["bf16", "fp16", "fp32"])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, help="the same as JSON")
    parser.add_argument("--cpu", action="store_true")
    asked = parser.parse_args()
    device = "cpu" if asked.cpu else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device; scripts/kernel-bench --cpu runs without", file=sys.stderr)
        return 2
    if find_spec("triton") is None:
        print("triton is not installed: pip install triton (Linux), or the extra `test`", file=sys.stderr)
        return 2
    dtype, repeats = asked.dtype or ("fp32" if asked.cpu else "bf16"), 2 if asked.cpu else asked.repeats
    assert dtype in DTYPES
    name = "CPU, interpreted" if asked.cpu else torch.cuda.get_device_name()
    ceilings = Ceilings(copy_bytes_per_s(torch.device(device), repeats), None if asked.cpu else datasheet(name))
    sheet = "unknown" if ceilings.datasheet is None else f"{ceilings.datasheet / 1e9:.0f} GB/s"
    print(f"{name}: a copy moves {ceilings.copy / 1e9:.0f} GB/s; datasheet: {sheet}\n{HEADER}")
    rows = []
    for kernel in KERNELS.values():
        if not asked.only or kernel.name in asked.only:
            for sizes in [tiny(kernel)] if asked.cpu else kernel.typical:
                for row in measure(kernel, sizes, dtype, device, repeats, ceilings):
                    rows.append(row)
                    print(line(row), flush=True)
    if asked.out is not None:
        asked.out.write_text(json.dumps(record(name, ceilings, rows), indent=1) + "\n")
    return 0


def record(name: str, ceilings: Ceilings, rows: list[Row]) -> dict[str, Any]:
    """What is kept of a run."""
    import triton

    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return {"device": name, "date": now, **versions, **asdict(ceilings), "rows": [asdict(row) for row in rows]}


if __name__ == "__main__":
    sys.exit(main())
