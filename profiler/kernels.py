"""Kernels: every operation over an adaptive grid of sizes that such a device trains with."""

from __future__ import annotations

from functools import partial
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch

from ..clusters.shapes import work
from .company import last_line
from .grid import Point, Sizes, Space, refine
from .operations import measure_point
from .parts import Result, Setting

_CALLS = 500  # of the longest call that an operation's budget would pay for
_LONGEST_ASPECT = 64  # of a weight: narrower ones are none that models have
_MOST_ELEMENTS = {"cpu": 2**25, "cuda": 2**30}  # of all operands of one call, about
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SMALLEST_S = 0.1  # budget below which an operation is not worth beginning


class Axis(NamedTuple):
    """Sizes at octaves and halfway between, 2^a and 3 x 2^a: what models have, and not only what caches dislike."""

    least: int
    most: int

    @property
    def sizes(self) -> tuple[int, ...]:
        powers = [2**power for power in range(self.most.bit_length())]
        return tuple(sorted(s for p in powers for s in (p, 3 * p // 2) if self.least <= s <= self.most))


class Part(NamedTuple):
    """An operation's share of the budget, a size that is measured first, and the axes by kind of device."""

    share: float
    probe: dict[str, Sizes]
    axes: dict[str, tuple[Axis, ...]]
    coarse: int = 2


_TOKENS = {"cpu": Axis(64, 8192), "cuda": Axis(256, 16384)}
_WIDTH = {"cpu": Axis(32, 4096), "cuda": Axis(256, 16384)}
_KINDS = ("cpu", "cuda")


def _each(*axes: dict[str, Axis]) -> dict[str, tuple[Axis, ...]]:
    return {kind: tuple(axis[kind] for axis in axes) for kind in _KINDS}


def _only(cpu: Axis, cuda: Axis) -> dict[str, Axis]:
    return {"cpu": cpu, "cuda": cuda}


PARTS: dict[str, Part] = {
    "matmul": Part(
        0.5,
        {"cpu": (256, 256, 256), "cuda": (4096, 4096, 4096)},
        _each(_TOKENS, _only(Axis(32, 8192), Axis(256, 65536)), _only(Axis(32, 8192), Axis(256, 32768))),
    ),
    "attention": Part(
        0.16,
        {"cpu": (8, 256, 64), "cuda": (32, 2048, 128)},
        _each(
            _only(Axis(1, 64), Axis(4, 256)),
            _only(Axis(64, 4096), Axis(512, 32768)),
            _only(Axis(16, 128), Axis(64, 128)),
        ),
    ),
    "grouped": Part(
        0.08,
        {"cpu": (4, 128, 128, 128), "cuda": (8, 1024, 2048, 2048)},
        _each(
            _only(Axis(2, 16), Axis(2, 64)),
            _only(Axis(16, 2048), Axis(64, 8192)),
            _only(Axis(32, 2048), Axis(512, 8192)),
            _only(Axis(32, 2048), Axis(512, 8192)),
        ),
    ),
    "norm": Part(0.05, {"cpu": (256, 256), "cuda": (4096, 4096)}, _each(_TOKENS, _WIDTH)),
    "activation": Part(0.05, {"cpu": (256, 512), "cuda": (4096, 4096)}, _each(_TOKENS, _WIDTH)),
    "residual": Part(
        0.02, {"cpu": (2**16,), "cuda": (2**24,)}, _each(_only(Axis(2**12, 2**23), Axis(2**16, 2**28))), 4
    ),
    "loss": Part(
        0.05, {"cpu": (256, 1024), "cuda": (4096, 32768)}, _each(_TOKENS, _only(Axis(256, 65536), Axis(8192, 262144)))
    ),
    "embedding": Part(
        0.04,
        {"cpu": (256, 256, 1024), "cuda": (4096, 4096, 32768)},
        _each(_TOKENS, _WIDTH, _only(Axis(256, 65536), Axis(8192, 262144))),
    ),
    "optimizer": Part(
        0.03, {"cpu": (2**16,), "cuda": (2**24,)}, _each(_only(Axis(2**12, 2**24), Axis(2**16, 2**28))), 4
    ),
    "copy": Part(0.02, {"cuda": (2**20,)}, {"cuda": (Axis(2**12, 2**28),)}, 4),
}


def measure(setting: Setting) -> Result:
    """Rows of every operation that the budget allows, as clusters/shapes.py has them: sizes, seconds of each part,
    spread; with the number format, and the bytes of the device's caches."""
    device, dtype = setting.device, torch.bfloat16 if setting.device.type == "cuda" else torch.float32
    rows = dict[str, list[list[float]]]()
    for name in affordable(device, setting.budget_s):
        try:
            rows[name] = setting.once(name, partial(_rows, setting, name, dtype))
        except Exception as error:  # of one operation, as a lack of memory: the others are measured all the same
            setting.note(f"{name}: {type(error).__name__}: {last_line(error)}")
    return {"rows": rows, "dtype": "bf16" if dtype is torch.bfloat16 else "fp32", "caches_bytes": caches_bytes(device)}


def affordable(device: torch.device, budget_s: float) -> list[str]:
    """Operations that this kind of device has and that there is time for."""
    own = {name: part for name, part in PARTS.items() if device.type in part.axes}
    return [name for name, part in own.items() if part.share * budget_s >= _SMALLEST_S]


def _rows(setting: Setting, name: str, dtype: torch.dtype) -> list[list[float]]:
    setting.announce(name)
    points = grid_of(name, setting.device, dtype, PARTS[name].share * setting.budget_s)
    return [list(point.row) for point in points]


def caches_bytes(device: torch.device) -> list[int]:
    """Of the last levels, where a product may become slower; none where nothing says so."""
    if device.type == "cuda":
        found: int = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
        return [found] if found else []
    texts = (path.read_text().strip() for path in sorted(_CACHES.glob("index[2-9]/size")))
    return [int(text[:-1]) * 2**10 for text in texts if text.endswith("K")]


def grid_of(name: str, device: torch.device, dtype: torch.dtype, budget_s: float) -> list[Point]:
    """Points of one operation. What may be measured follows from what a first size takes: no call longer than
    a five-hundredth of the budget, no operands beyond memory."""
    finish = torch.cuda.synchronize if device.type == "cuda" else _nothing
    part, measure_one = PARTS[name], measure_point(name, device, dtype, finish)
    probe = part.probe[device.type]
    pace = sum(measure_one(probe, budget_s / 20).seconds) / _amount(name, probe)
    longest = budget_s / _CALLS / pace
    most = _MOST_ELEMENTS[device.type]

    def allowed(sizes: Sizes) -> bool:
        fits = _amount(name, sizes) <= max(longest, _amount(name, probe)) and work(name, sizes)[1] <= most
        return fits and _is_usual(name, sizes)

    axes = tuple(axis.sizes for axis in part.axes[device.type])
    space = Space(name, axes, allowed, part.coarse)
    return refine(space, measure_one, budget_s * 0.95, at_least=5 if name == "matmul" else 0)


def _is_usual(name: str, sizes: Sizes) -> bool:
    return name not in ("matmul", "grouped") or max(sizes[-2:]) <= _LONGEST_ASPECT * min(sizes[-2:])


def _amount(name: str, sizes: Sizes) -> float:
    """What the time of a large call grows with."""
    operations, elements = work(name, sizes)
    return operations or elements or float(prod(sizes))


def _nothing() -> None:
    """On CPU an operation has finished when it returns."""
