"""Here: the machine that runs, in the words of a provenance; where they differ, a measured cluster is another's."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from .local import host_text, read_processor, visible_gpus
from .provenance import Provenance
from .schema import Cluster


@dataclass(frozen=True, slots=True)
class Here:
    """`versions` as far as they are known without importing torch: torch, driver."""

    host: str
    devices: tuple[str, ...]
    versions: dict[str, str]


def this_machine(on_gpus: bool) -> Here:
    """Devices are the GPUs, or the processor where none was measured."""
    devices = tuple(dict.fromkeys(visible_gpus())) if on_gpus else (read_processor(host_text("/proc/cpuinfo")).model,)
    versions = {"torch": _torch(), "driver": parse_driver(host_text("/proc/driver/nvidia/version"))}
    return Here(platform.node(), devices, {name: version for name, version in versions.items() if version})


def _torch() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def parse_driver(text: str) -> str:
    """Version from /proc/driver/nvidia/version: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  ...`."""
    found = re.search(r"NVRM version:.*?(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else ""


def mismatches(measured: Provenance, here: Here) -> Iterator[str]:
    """What was measured on, and what runs: devices, then versions that both know."""
    if here.devices and not set(here.devices) & set(measured.devices) and measured.devices:
        yield f"it was measured on {_list(measured.devices)}; this machine has {_list(here.devices)}"
    for name, version in here.versions.items():
        before = measured.versions.get(name, version)
        if before != version:
            yield f"it was measured with {name} {before}; this machine has {version}"


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def warnings(cluster: Cluster, runs_here: bool, here: Here | None = None) -> list[str]:
    """For people: where a measured cluster is not that of this machine, which either runs the plan (`launch`), or has
    the name of the host that was measured (`plan`: elsewhere one plans for other machines)."""
    measured = cluster.measured
    if measured is None or not (runs_here or measured.host == (here.host if here else platform.node())):
        return []
    found = here or this_machine(any(group.device.kind != "cpu" for group in cluster.node_groups))
    told = mismatches(measured, found)
    name, date = cluster.name, measured.date
    return [f"cluster {name} ({date}): {words}: profile again, or expect other times" for words in told]
