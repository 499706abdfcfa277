"""PCIe: what a slot carries, and what lies between two cards."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .tree import Tree

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
# GT/s of a lane -> part of the bits that are data: 8b/10b to 5 GT/s, then 128b/130b; from 64 GT/s on flits of 242/256
# bytes (PCI-SIG, PCI Express base specification 6.0)
_CODING = ((5.0, 8 / 10), (32.0, 128 / 130), (float("inf"), 242 / 256))


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a card sits. `path`: the addresses from the host bridge down to the card."""

    path: tuple[str, ...]
    host_bridge: str
    numa_node: int | None
    bytes_per_s: float | None  # one direction, by generation and lanes; None where the card does not say


def slot(tree: Tree, device: str) -> Slot | None:
    """Of the card behind a folder of /sys (`sys/class/net/eth0/device`); None where it is no PCI card."""
    real = tree.real(device)
    path = tuple(_ADDRESS.findall(real))
    if not path:
        return None
    bridge = next((part for part in real.split("/") if part.startswith("pci")), "")
    here = real[: real.index(path[-1]) + len(path[-1])]
    numa = tree.number(f"{here}/numa_node")
    rate = link_rate(tree.text(f"{here}/current_link_speed"), tree.text(f"{here}/current_link_width"))
    return Slot(path, bridge, numa if numa is not None and numa >= 0 else None, rate)


def link_rate(speed: str | None, lanes: str | None) -> float | None:
    """Bytes per second in one direction from what /sys says: `16.0 GT/s PCIe`, `16`."""
    found = re.match(r"([\d.]+) GT/s", speed or "")
    if not found or not (lanes or "").isdecimal() or int(lanes or 0) == 0:
        return None
    transfers = float(found[1])
    part = next(part for most, part in _CODING if transfers <= most)
    return transfers * 1e9 * part / 8 * int(lanes or 0)


def between(a: Slot, b: Slot) -> str:
    """In the words of `nvidia-smi topo -m`: PIX, PXB (switches), PHB (host bridge), NODE, SYS (between processors)."""
    shared = 0
    for here, there in zip(a.path, b.path, strict=False):
        if here != there:
            break
        shared += 1
    if shared:
        bridges = len(a.path) + len(b.path) - 2 * shared - 2
        return "PIX" if bridges <= 2 else "PXB"
    if a.host_bridge == b.host_bridge:
        return "PHB"
    return "NODE" if a.numa_node == b.numa_node else "SYS"
