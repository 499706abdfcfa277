"""NVMe drives of the host, as /sys/block has them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .pcie import slot
from .tree import Note, Tree, note

_SECTOR_BYTES = 512  # the unit of /sys/block/*/size, whatever the drive's own


@dataclass(frozen=True, slots=True)
class Drive:
    """`bytes_per_s`: of its slot, one direction; what the drive itself reads and writes stays below."""

    name: str
    model: str
    capacity_bytes: float
    bytes_per_s: float | None


def read_drives(tree: Tree) -> tuple[tuple[Drive, ...], list[Note]]:
    """Drives in order of their names; those without a medium are left out."""
    drives, notes = [], list[Note]()
    for name in tree.names("sys/block"):
        if not re.fullmatch(r"nvme\d+n\d+", name):
            continue
        sectors = tree.number(f"sys/block/{name}/size")
        if not sectors:
            notes.append(note(f"drive {name}", "it has no size"))
            continue
        place = slot(tree, f"sys/block/{name}")
        model = tree.text(f"sys/block/{name}/device/model") or ""
        drives.append(Drive(name, model, float(sectors * _SECTOR_BYTES), place.bytes_per_s if place else None))
    return tuple(drives), notes
