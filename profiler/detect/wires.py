"""Wires between the GPUs of a host: NVLink through switches or directly, or PCIe alone."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from xml.etree import ElementTree

from .gpus import Run, run
from .tree import Note, note

_COLUMN = re.compile(r"(?:GPU|NIC)\d+|mlx\d+_\d+|\w+_\d+")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_SWITCH_CLASS = "0x068000"  # PCI class of an NVSwitch, as NCCL writes it; a GPU has 0x030200 or 0x030000


@dataclass(frozen=True, slots=True)
class Wires:
    """What joins pairs of GPUs (NV18, NV2, PIX, PXB, PHB, NODE, SYS), and each GPU to cards, by their names."""

    pairs: Mapping[tuple[int, int], str]
    cards: Mapping[tuple[int, str], str]
    link_bytes_per_s: tuple[float, ...] = ()  # of the NVLinks of the first GPU, one direction
    switched: bool | None = None  # where something says so

    @property
    def kind(self) -> str:
        """As in a cluster file."""
        counts = {pair: int(word[2:]) for pair, word in self.pairs.items() if re.fullmatch(r"NV\d+", word)}
        if not counts or len(counts) < len(self.pairs):  # a pair without NVLink goes over PCIe, and so does a ring
            return "nvlink" if counts else "pcie"
        if self.switched is not None:
            return "nvswitch" if self.switched else "nvlink"
        gpus = {gpu for pair in counts for gpu in pair}
        links = len(self.link_bytes_per_s)
        # through a switch every pair may use all links; direct links are shared out among the peers
        through = len(gpus) > 2 and len(set(counts.values())) == 1
        needed = next(iter(counts.values())) * (len(gpus) - 1)
        return "nvswitch" if through and needed > (links or _MOST_LINKS) else "nvlink"


_MOST_LINKS = 18
"""NVLinks of one GPU, H100 to B300; 12 on A100, 6 on V100."""


def read_wires(execute: Run = run) -> tuple[Wires | None, list[Note]]:
    """From nvidia-smi; None where it does not answer."""
    try:
        wires = parse_topology(execute(("nvidia-smi", "topo", "-m")))
    except FileNotFoundError:
        return None, []
    except (OSError, subprocess.SubprocessError) as error:
        return None, [note("GPU topology", f"nvidia-smi topo -m failed: {error}")]
    try:
        links = parse_links(execute(("nvidia-smi", "nvlink", "--status", "-i", "0")))
    except (OSError, subprocess.SubprocessError):
        links = ()
    return Wires(wires.pairs, wires.cards, links), []


def parse_topology(text: str) -> Wires:
    """From `nvidia-smi topo -m`, tabs or spaces; cards have the names of its legend where it has one."""
    lines = [line for line in _ESCAPES.sub("", text).splitlines() if line.strip()]
    legend = dict(re.findall(r"(NIC\d+):\s*(\S+)", text))
    header = next((line for line in lines if "GPU0" in line and not line.startswith("GPU0")), "")
    columns = [word for word in header.split() if _COLUMN.fullmatch(word)]
    pairs, cards = dict[tuple[int, int], str](), dict[tuple[int, str], str]()
    for line in lines:
        name, *cells = line.split()
        if not re.fullmatch(r"GPU\d+", name) or line is header:
            continue
        gpu = int(name[3:])
        for column, cell in zip(columns, cells, strict=False):
            if column.startswith("GPU"):
                pairs[gpu, int(column[3:])] = cell
            else:
                cards[gpu, legend.get(column, column)] = cell
    return Wires({pair: word for pair, word in pairs.items() if pair[0] < pair[1]}, cards)


def parse_links(text: str) -> tuple[float, ...]:
    """Bytes per second of each active link from `nvidia-smi nvlink --status`: `Link 0: 26.562 GB/s`."""
    return tuple(float(rate) * 1e9 for rate in re.findall(r"Link \d+: ([\d.]+) GB/s", text))


def parse_nccl(text: str) -> Wires | None:
    """From the topology that NCCL writes to NCCL_TOPO_DUMP_FILE; None where it is no such file.

    NCCL lists NVLinks with what they lead to: other GPUs, or switches, which join all.
    """
    try:
        system = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
    addresses, links = dict[str, int](), dict[int, list[tuple[str, str, int]]]()
    for card in system.iter("pci"):
        for gpu in card.findall("gpu"):
            number = int(gpu.get("dev", "0"))
            addresses[card.get("busid", "")] = number
            links[number] = [
                (each.get("target", ""), each.get("tclass", ""), int(each.get("count", "0")))
                for each in gpu.findall("nvlink")
            ]
    switched = any(kind == _SWITCH_CLASS for found in links.values() for _, kind, _ in found)
    pairs = {(a, b): _joined(links[a], b, addresses, switched) for a, b in combinations(sorted(links), 2)}
    return Wires(pairs, {}, switched=switched if any(links.values()) else None)


def _joined(links: list[tuple[str, str, int]], peer: int, addresses: Mapping[str, int], switched: bool) -> str:
    if switched:
        return f"NV{sum(count for _, kind, count in links if kind == _SWITCH_CLASS)}"
    count = sum(count for target, _, count in links if addresses.get(target) == peer)
    return f"NV{count}" if count else "PCI"
