"""Processors of the host: model, sockets, cores, and the memory domains that they make."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...clusters.local import read_processor
from .tree import Note, Tree, note


@dataclass(frozen=True, slots=True)
class Processors:
    """`cores` are physical, `threads` what the operating system schedules on."""

    model: str
    sockets: int
    cores: int
    threads: int
    numa: dict[int, tuple[int, ...]]  # node -> its threads


def read_processors(tree: Tree) -> tuple[Processors, list[Note]]:
    """From /sys, as far as it is there, else from /proc/cpuinfo."""
    text = tree.text("proc/cpuinfo") or ""
    base = "sys/devices/system/cpu"
    numbers = [int(name[3:]) for name in tree.names(base) if re.fullmatch(r"cpu\d+", name)]
    places = [(tree.number(f"{base}/cpu{n}/topology/physical_package_id"), _siblings(tree, base, n)) for n in numbers]
    known = [(package, cores) for package, cores in places if package is not None and cores]
    threads = len(known) or len(re.findall(r"^processor\s*:", text, flags=re.MULTILINE))
    notes = [] if threads else [note("processors", "neither /sys nor /proc/cpuinfo says how many there are")]
    processors = Processors(
        model=read_processor(text).model,
        sockets=len({package for package, _ in known}) or 1,
        cores=len(set(known)) or max(1, threads),
        threads=max(1, threads),
        numa=_numa(tree),
    )
    return processors, notes


def _siblings(tree: Tree, base: str, number: int) -> str:
    """Threads of the same core: equal on all of them."""
    return tree.text(f"{base}/cpu{number}/topology/thread_siblings_list") or ""


def _numa(tree: Tree) -> dict[int, tuple[int, ...]]:
    base = "sys/devices/system/node"
    names = [name for name in tree.names(base) if re.fullmatch(r"node\d+", name)]
    return {int(name[4:]): number_list(tree.text(f"{base}/{name}/cpulist") or "") for name in names}


def number_list(text: str) -> tuple[int, ...]:
    """`0-3,8,10-11` as the kernel writes lists."""
    found: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
