"""This machine as a cluster, from what the operating system says. Nothing is measured: `profile` does that."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..schema import parse
from .devices import device_mapping
from .schema import Cluster

CPU_CONTEXT_BYTES = 0.35 * 2**30
"""A Python process with torch 2.13 imported (CPU wheel) holds 0.21 GiB; the rest for its threads and gloo's buffers."""

CPU_FABRIC = {"kind": "shared-memory", "bandwidth": "2 GB/s", "latency": "100 us", "efficiency": 0.5}
"""Processes of one machine that talk through gloo: loopback TCP, assumed, not measured."""

_FLOPS_PER_CYCLE = (
    # flag of /proc/cpuinfo -> fp32 FLOP per cycle and core: lanes x 2 (multiply, add) x FMA units (two on server cores)
    ("avx512f", 64.0),
    ("avx2", 32.0),
    ("avx", 16.0),
    ("asimd", 16.0),
    ("neon", 16.0),
)
_OTHER_FLOPS_PER_CYCLE = 8.0  # SSE: four lanes, one multiply and one add
_ZEN_TO_4 = {("AuthenticAMD", 23), ("AuthenticAMD", 25)}
_ZEN_4_FLOPS_PER_CYCLE = 32.0  # these run AVX-512 on 256-bit units (AMD, Zen 4 software optimization guide)

_GPU_QUERY = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
_GPU_NAMES = (  # as nvidia-smi spells them; PCIe cards are other devices
    (r"A100-SXM4-40GB", "a100-sxm-40gb"),
    (r"A100-SXM4-80GB", "a100-sxm-80gb"),
    (r"H800$", "h800-sxm-80gb"),
    (r"H200$", "h200-sxm-141gb"),
    (r"H100 80GB HBM3", "h100-sxm-80gb"),
    (r"GB200", "gb200-186gb"),
    (r"B200", "b200-sxm-180gb"),
    (r"RTX 4090$", "rtx-4090-24gb"),
)


@dataclass(frozen=True, slots=True)
class Processor:
    """What /proc/cpuinfo says of the CPU."""

    model: str
    family: tuple[str, int]
    clock_hz: float
    flags: frozenset[str]

    @property
    def fp32_flops_per_core(self) -> float:
        """Peak of one core: clock x SIMD lanes x FMA x units, by the widest SIMD the flags name."""
        width = next((flops for flag, flops in _FLOPS_PER_CYCLE if flag in self.flags), _OTHER_FLOPS_PER_CYCLE)
        return self.clock_hz * (min(width, _ZEN_4_FLOPS_PER_CYCLE) if self.family in _ZEN_TO_4 else width)


MOST_WORKERS = 256
"""Of one machine: beyond any that is built, and few enough to start."""


def detect(workers: int | None = None) -> Cluster:
    """This machine: its GPUs where nvidia-smi finds some that are known, else `workers` shares of its CPU.

    By default one worker for each core that this process may use, at most 8. Raises InputError when
    more workers are asked for than there are GPUs.
    """
    gpus = visible_gpus()
    return _gpu_cluster(gpus, workers) if gpus else cpu_cluster(workers or min(8, usable_cores()))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_cluster(workers: int) -> Cluster:
    """`workers` equal shares of this machine's CPU and memory; peaks by arithmetic."""
    processor = read_processor(host_text("/proc/cpuinfo"))
    peak = processor.fp32_flops_per_core * usable_cores() / workers
    device = {
        "name": f"{processor.model} / {workers}",
        "kind": "cpu",
        "memory": total_memory(host_text("/proc/meminfo")) / workers,
        "memory_bandwidth": 10e9 * usable_cores() / workers,
        "peak_flops": {"fp32": peak, "bf16": peak / 2},
        "context": CPU_CONTEXT_BYTES,
        "calibration": device_mapping("cpu-core")["calibration"],
        "source": "/proc/cpuinfo and /proc/meminfo; assumed: 10 GB/s of memory a core, bf16 at half of fp32",
    }
    return one_node(device, workers, CPU_FABRIC, host_link=10e9, source="detected on this machine, not measured")


def _gpu_cluster(names: list[str], workers: int | None) -> Cluster:
    device, count = _known_device(names[0]), workers or len(names)
    if count > len(names):
        rule, fix = f"this machine has {len(names)} GPUs", f"{len(names)} workers or fewer"
        raise InputError.single("local", "workers", count, rule, fix)
    return one_node(device, count, _gpu_fabric(device), host_link=25e9, source="detected by nvidia-smi, not measured")


def _gpu_fabric(device: str) -> dict[str, Any]:
    """The fabric of the bundled cluster that has this device: SXM modules come on one baseboard."""
    from .catalogue import bundled_clusters, load_cluster

    groups = (group for name in bundled_clusters() for group in load_cluster(name).node_groups)
    found = next(group.fabric for group in groups if group.device.name == device)
    return found.model_dump(by_alias=True) | {"domain_devices": None}


def one_node(
    device: str | dict[str, Any], count: int, fabric: dict[str, Any], host_link: float, source: str
) -> Cluster:
    """A cluster of this machine alone: `count` devices, given by bundled name or as a file describes them."""
    return parse(Cluster, one_node_mapping(device, count, fabric, host_link, source), "local")


def one_node_mapping(
    device: str | dict[str, Any], count: int, fabric: dict[str, Any], host_link: float, source: str
) -> dict[str, Any]:
    """The same as a file would have it."""
    memory, cores = total_memory(host_text("/proc/meminfo")), usable_cores()
    group = {
        "name": "local",
        "nodes": 1,
        "devices_per_node": count,
        "device": device,
        "fabric": fabric,
        "host": {"memory": memory, "cores": cores, "device_link": host_link},
    }
    return {"name": "local", "node_groups": [group], "source": source}


def _known_device(name: str) -> str:
    for pattern, device in _GPU_NAMES:
        if re.search(pattern, name):
            return device
    rule = "is not among the bundled devices"
    raise InputError.single("local", "GPU", name, rule, "`meshwright profile`, which measures it")


def visible_gpus() -> list[str]:
    """Names of the NVIDIA GPUs of this machine, without touching CUDA; empty where nvidia-smi is missing or fails."""
    try:
        found = subprocess.run(_GPU_QUERY, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(found.stdout)


def parse_gpus(text: str) -> list[str]:
    """Names from `nvidia-smi --query-gpu=name --format=csv,noheader`."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_processor(text: str) -> Processor:
    """Model, clock and SIMD flags from /proc/cpuinfo; the clock of the model name beats the momentary one."""
    fields = dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", text, flags=re.MULTILINE)[::-1])
    model = fields.get("model name") or fields.get("Model") or "CPU"
    named = re.search(r"@\s*([\d.]+)\s*GHz", model)
    clock_hz = float(named[1]) * 1e9 if named else float(fields.get("cpu MHz") or 2000) * 1e6
    family = (fields.get("vendor_id", ""), int(fields.get("cpu family") or 0))
    flags = frozenset((fields.get("flags") or fields.get("Features") or "").split())
    return Processor(model.strip(), family, clock_hz, flags)


def total_memory(text: str) -> float:
    """Bytes of MemTotal in /proc/meminfo; without one, what the system configuration says."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", text, flags=re.MULTILINE)
    return int(found[1]) * 1024.0 if found else float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def host_text(path: str) -> str:
    file = Path(path)
    return file.read_text() if file.exists() else ""
