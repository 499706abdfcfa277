"""Fit the allocator's share of `Keeps` on published reserved peaks, for each framework that has some.

    python -m meshwright.planner.published.fragments measured.csv

Minimises the mean absolute error of the reserved peak over a grid: `fragments` in steps of 0.01, and `late_gathers` in
steps of 1 where sequence-parallel runs without a pipeline are among the rows. Prints both, with the error and with what
each half of the rows alone would have given.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cost.footprint import STUCK, rank_memory
from ..frameworks.framework import framework
from .case import make_case
from .generation import generation
from .peak import GIB, reserved_is_published
from .row import Row, read_rows
from .shape import NotModelledError

FRAGMENTS = [share / 100 for share in range(61)]
GATHERS = range(61)


@dataclass(frozen=True, slots=True)
class Peak:
    """One published reserved peak beside what is known of it, in GiB."""

    published: float
    allocated: float
    comes_and_goes: float
    gathered: float  # one gathered hidden state, 0 where none is held late
    room: float

    def error(self, fragments: float, gathers: float) -> float:
        """Predicted / published - 1. Cached segments go back before the device is full."""
        wanted = fragments * self.comes_and_goes + gathers * self.gathered
        reserve = min(wanted, max(STUCK * self.comes_and_goes, self.room))
        return (self.allocated + reserve) / self.published - 1


def peak_of(row: Row) -> Peak:
    """A row on its first pipeline rank. Raises NotModelledError."""
    case = make_case(row)
    setting, configuration = case.setting, case.configuration
    memory = rank_memory(setting, configuration, 0)
    hidden = configuration.microbatch * setting.job.seq_len * setting.architecture.hidden * setting.element_bytes
    late = configuration.sp and configuration.mesh.pp == 1
    return Peak(
        published=row.peak_mem_gb or 0.0,
        allocated=memory.allocated / GIB,
        comes_and_goes=(memory.activations + memory.logits + memory.buffers) / GIB,
        gathered=hidden / configuration.mesh.cp / GIB if late else 0.0,
        room=max(0.0, (setting.memory_limit_bytes - setting.context_bytes - memory.allocated) / GIB),
    )


def fit(peaks: Sequence[Peak]) -> tuple[float, int]:
    """(fragments, late_gathers) with the least mean absolute error: first without gathers, then both in turns."""
    fragments, gathers = 0.0, 0
    for _ in range(4):
        fragments = min(FRAGMENTS, key=lambda share: mean_error(peaks, share, gathers))
        gathers = min(GATHERS, key=lambda count: mean_error(peaks, fragments, count))
    return fragments, gathers


def mean_error(peaks: Sequence[Peak], fragments: float, gathers: float) -> float:
    """Mean absolute error of the reserved peak."""
    return sum(abs(peak.error(fragments, gathers)) for peak in peaks) / len(peaks)


def main(path: str) -> None:
    """Print what each framework's reserved peaks give."""
    groups: dict[str, list[Peak]] = defaultdict(list)
    for row in read_rows(Path(path)):
        if not row.peak_mem_gb or not reserved_is_published(row):
            continue
        try:
            groups[generation(row)].append(peak_of(row))
        except NotModelledError:
            continue
    for name, peaks in groups.items():
        fragments, gathers = fit(peaks)
        halves = " ".join(f"{share:.2f}/{count}" for share, count in (fit(peaks[::2]), fit(peaks[1::2])))
        keeps = framework(name).keeps
        print(
            f"{name}: {len(peaks)} peaks, fragments {fragments:.2f}, late_gathers {gathers}: mean absolute error "
            f"{100 * mean_error(peaks, fragments, gathers):.1f} % (halves {halves}; in use "
            f"{keeps.fragments:.2f}/{keeps.late_gathers}: "
            f"{100 * mean_error(peaks, keeps.fragments, keeps.late_gathers):.1f} %)"
        )


if __name__ == "__main__":
    main(sys.argv[1])
