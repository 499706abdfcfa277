"""Memory of the host: what is built in, and what a container leaves of it."""

from __future__ import annotations

import re

from .tree import Note, Tree, note

_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")  # cgroups 2 and 1


def read_memory(tree: Tree) -> tuple[float | None, list[Note]]:
    """Bytes that may be used; None where nothing says."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", tree.text("proc/meminfo") or "", flags=re.MULTILINE)
    total = int(found[1]) * 1024.0 if found else None
    limits = [number for number in map(tree.number, _LIMITS) if number]
    least = min(limits, default=None)
    if least is not None and (total is None or least < total):
        return float(least), [note("host memory", f"a container allows {least / 2**30:.1f} GiB of it")]
    return total, [] if total else [note("host memory", "/proc/meminfo does not say")]
