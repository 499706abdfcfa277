"""The parts that every profile has: what a worker runs on, what it computes, what joins it to the others."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib import import_module
from typing import Any

import torch

from ..clusters.local import host_text, read_processor
from ..runtime.stop import peak_resident_bytes
from . import compute as computing
from .parts import Result, Setting


def measure(setting: Setting) -> Result:
    """Device, memory and versions; nothing is timed."""
    return {"context_bytes": _context_bytes(setting.device), "host": platform.node(), **_device(setting.device)}


def compute(setting: Setting) -> Result:
    """profiler/compute.py as JSON."""
    return asdict(computing.measure(setting.device, setting.budget_s, setting.announce))


def _context_bytes(device: torch.device) -> float:
    """What driver, runtime and collectives library hold before a model does, the trainer's own code included."""
    import_module("..runtime.train", __package__)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return float(total - free)
    _first_step()
    return float(peak_resident_bytes())


def _first_step() -> None:
    """A process on the CPU holds its libraries' code from their first use on, some 17 MiB: each operation of a small
    layer's training step once."""
    layer, functional = torch.nn.TransformerEncoderLayer(64, 2, 128, batch_first=True), torch.nn.functional
    hidden = functional.rms_norm(layer(torch.randn(1, 64, 64)), (64,))
    loss = functional.cross_entropy((functional.silu(hidden) * hidden)[0], torch.zeros(64, dtype=torch.long))
    torch.autograd.backward(loss)
    torch.optim.AdamW(layer.parameters()).step()


def _device(device: torch.device) -> dict[str, Any]:
    versions = {"torch": torch.__version__, "python": platform.python_version(), "kernel": platform.release()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, Any] = {"kind": "cpu", "name": None, "memory_bytes": None, "cores": cores, "versions": versions}
    found["processor"] = read_processor(host_text("/proc/cpuinfo")).model
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    kind = "rocm" if torch.version.hip else "cuda"
    versions["cuda"] = str(torch.version.hip or torch.version.cuda)
    versions["nccl"] = ".".join(str(number) for number in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
    return found | {"kind": kind, "name": properties.name, "memory_bytes": properties.total_memory}
