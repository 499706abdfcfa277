"""Machine: everything that is found out about a host without timing anything, as a part of a profile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .drives import Drive, read_drives
from .gpus import Gpu, Run, read_gpus, run
from .memory import read_memory
from .networks import Card, chosen, read_cards
from .pcie import between, slot
from .processors import Processors, read_processors
from .tree import Note, Tree, note
from .wires import Wires, parse_nccl, read_wires

if TYPE_CHECKING:
    from ..parts import Found, Result, Setting

NCCL_TOPOLOGY = "nccl-topology.xml"
"""In the folder of rank 0: NCCL writes it where NCCL_TOPO_DUMP_FILE says so."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`cards`: those that a job would use. `near`: of each GPU, what lies between it and its nearest card."""

    processors: Processors
    memory_bytes: float | None
    gpus: tuple[Gpu, ...]
    wires: Wires | None
    cards: tuple[Card, ...]
    near: tuple[str, ...]
    drives: tuple[Drive, ...]
    notes: tuple[Note, ...]


def read_machine(tree: Tree | None = None, execute: Run = run, nccl: Path | None = None) -> Machine:
    """The host below a root; what is missing or refused is in the notes."""
    tree = tree or Tree()
    processors, notes = read_processors(tree)
    memory, more = read_memory(tree)
    gpus, about_gpus = read_gpus(execute)
    wires, about_wires = _wires(gpus, nccl, execute)
    ports, about_ports = read_cards(tree)
    cards, others = chosen(ports)
    drives, about_drives = read_drives(tree)
    notes += [*more, *about_gpus, *about_wires, *about_ports, *others, *about_drives]
    notes += _narrow(tree, gpus)
    near = tuple(_nearest(tree, index, gpu, cards, wires) for index, gpu in enumerate(gpus)) if cards else ()
    return Machine(processors, memory, gpus, wires, cards, near, drives, (*notes, *tree.notes))


def _wires(gpus: Sequence[Gpu], nccl: Path | None, execute: Run) -> tuple[Wires | None, list[Note]]:
    """Of several GPUs: as nvidia-smi says, else as NCCL found it."""
    if len(gpus) < 2:
        return None, []
    wires, notes = read_wires(execute)
    if wires is None and nccl is not None and nccl.exists():
        wires = parse_nccl(nccl.read_text(errors="replace"))
    return wires, notes


def _narrow(tree: Tree, gpus: Sequence[Gpu]) -> Iterator[Note]:
    """Cards in slots with fewer lanes than they have: a common mistake in building a box."""
    for index, gpu in enumerate(gpus):
        here = f"sys/bus/pci/devices/{gpu.address}"
        lanes, most = tree.number(f"{here}/current_link_width"), tree.number(f"{here}/max_link_width")
        if lanes and most and lanes < most:
            yield note(f"GPU {index}", f"its slot gives it {lanes} of its {most} PCIe lanes")


_DISTANCES = ("PIX", "PXB", "PHB", "NODE", "SYS")


def _nearest(tree: Tree, index: int, gpu: Gpu, cards: Sequence[Card], wires: Wires | None) -> str:
    """What lies between a GPU and the nearest card; empty where neither nvidia-smi nor /sys says."""
    said = [wires.cards.get((index, card.name), "") for card in cards] if wires else []
    place = slot(tree, f"sys/bus/pci/devices/{gpu.address}")
    found = said if any(said) else [between(place, card.slot) for card in cards if place and card.slot]
    return min((word for word in found if word in _DISTANCES), key=_DISTANCES.index, default="")


def measure(setting: Setting) -> Result:
    """Facts of this host, by its first worker; nothing by the others."""
    if setting.local_rank:
        return {}
    machine = read_machine(nccl=setting.folder / NCCL_TOPOLOGY)
    return _json(replace(machine, notes=(*machine.notes, *_silent_driver(setting.device.type, machine))))


def _silent_driver(kind: str, machine: Machine) -> Iterator[Note]:
    """GPUs that work, of which nobody could be asked."""
    if kind == "cuda" and not machine.gpus:
        yield note("GPUs", "neither NVML (pip install nvidia-ml-py) nor nvidia-smi is there: links and power unknown")


def _json(machine: Machine) -> Result:
    found = asdict(machine)
    if machine.wires is not None:
        found["wires"] = {
            "kind": machine.wires.kind,
            "links": list(machine.wires.link_bytes_per_s),
            "pairs": [[a, b, word] for (a, b), word in sorted(machine.wires.pairs.items())],
        }
    return found


# What a cluster file needs and nothing here measures: of the cards of the bundled clusters, whose files name sources.
_CARDS: dict[str, dict[str, Any]] = {
    "infiniband": {"latency": "3.7 us", "efficiency": 0.8},
    "roce": {"latency": "5.6 us", "efficiency": 0.8},
    "slingshot": {"latency": "5.6 us", "efficiency": 0.8},
    "efa": {"latency": "258 us", "efficiency": 1.0},
    "ethernet": {"latency": "30 us", "efficiency": 0.8},
}
_FABRICS: dict[str, dict[str, Any]] = {
    "nvswitch": {"latency": "3 us", "efficiency": 0.65},
    "nvlink": {"latency": "3 us", "efficiency": 0.65},
    "pcie": {"bandwidth": "32 GB/s", "latency": "20 us", "efficiency": 0.15},
}


def assemble(cluster: dict[str, Any], found: Found) -> None:
    """Hosts, network cards, drives and the kind of fabric of every node group; figures measured elsewhere stay."""
    for index, group in enumerate(cluster["node_groups"]):
        machines = [each for each in found.of("detect", index) if each]
        if not machines:
            continue
        machine = machines[0]
        _host(group, machine)
        _fabric(group, machine, measured=bool(next(iter(found.of("links", index)), {}).get("rings")))
        if machine["cards"]:
            group["nics"] = _nics(machine["cards"])
        if drives := [drive for drive in machine["drives"] if drive["bytes_per_s"]]:
            group["nvme"] = _nvme(drives)
        if machine["gpus"]:
            cluster["measured"].setdefault("versions", {}).setdefault("driver", machine["gpus"][0]["driver"])
        notes = cluster["measured"].setdefault("notes", [])
        notes += (each for each in machine["notes"] if each not in notes)


def _host(group: dict[str, Any], machine: dict[str, Any]) -> None:
    if machine["memory_bytes"]:
        group["host"]["memory"] = machine["memory_bytes"]
    powers = [gpu["power_w"] for gpu in machine["gpus"] if gpu["power_w"]]
    if powers and isinstance(group["device"], dict):
        group["device"].setdefault("power_w", max(powers))


def _fabric(group: dict[str, Any], machine: dict[str, Any], measured: bool) -> None:
    wires = machine["wires"]
    if not wires or group["device"]["kind"] == "cpu":
        return
    group["fabric"]["kind"] = wires["kind"]
    if not measured:
        group["fabric"] |= {**_FABRICS["pcie"], **_FABRICS[wires["kind"]]}
        if wires["links"] and wires["kind"] != "pcie":
            group["fabric"]["bandwidth"] = sum(wires["links"])


def _nics(cards: list[dict[str, Any]]) -> dict[str, Any]:
    kind = cards[0]["kind"]
    return {"kind": kind, "count": len(cards), "rate": cards[0]["rate_bytes_per_s"], **_CARDS[kind]}


def _nvme(drives: list[dict[str, Any]]) -> dict[str, Any]:
    """All drives together, no faster than their slots: an upper bound, since nothing was read or written."""
    rate = sum(drive["bytes_per_s"] for drive in drives)
    return {"capacity": sum(drive["capacity_bytes"] for drive in drives), "read": rate, "write": rate}
