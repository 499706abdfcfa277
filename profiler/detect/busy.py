"""Busy: what others do on this host just before it is measured; figures beside it would be too low."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from .gpus import Gpu
from .tree import Note, Tree, note

_SAMPLE_S = 0.3
_MUCH = 0.1  # of a processor or device; less is what any system does for itself


def processors_used(tree: Tree | None = None, sample_s: float = _SAMPLE_S) -> float | None:
    """Fraction of all processors in use over a moment, time stolen by other machines of the same host included."""
    tree = tree or Tree()
    before = ticks(tree.text("proc/stat"))
    time.sleep(sample_s)
    after = ticks(tree.text("proc/stat"))
    if before is None or after is None or after[1] <= before[1]:
        return None
    return 1 - (after[0] - before[0]) / (after[1] - before[1])


def ticks(text: str | None) -> tuple[int, int] | None:
    """(idle, all) of the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, ..."""
    words = (text or "").split("\n", 1)[0].split()
    if not words or words[0] != "cpu":
        return None
    numbers = [int(word) for word in words[1:9]]  # what guests use is in user already
    return sum(numbers[3:5]), sum(numbers)


def busy_notes(processors: float | None, gpus: Sequence[Gpu]) -> Iterator[Note]:
    """A note for everything that others use."""
    if processors is not None and processors > _MUCH:
        yield note(
            "processors", f"others used {processors:.0%} of them before the profile began: figures may be too low"
        )
    for index, gpu in enumerate(gpus):
        if gpu.used is not None and gpu.used > _MUCH:
            yield note(
                f"GPU {index}", f"others used {gpu.used:.0%} of it before the profile began: figures may be too low"
            )
