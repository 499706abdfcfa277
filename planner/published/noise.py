"""What no prediction of a published campaign can get right, because its runs do not repeat.

    python -m meshwright.planner.published.noise runs.csv nanotron

Two questions. Runs that state the same but for the ZeRO stage: how far apart are they measured, how far predicted, and
which mean error is left to the best scale of each pair? And runs that take far longer than predicted: how much longer,
by microbatch of their pipeline? A constant there is a stall, not a rate.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles

from ..cost.step import step_s
from .case import make_case
from .row import Row, read_rows
from .shape import NotModelledError

STALLED_S = 0.35  # more than predicted, by microbatch that passes the pipeline
STALLED_SHARE = 0.3  # and so much of the measured time at least


@dataclass(frozen=True, slots=True)
class Played:
    """A run with its prediction; `slots`: microbatches that pass the pipeline one after another."""

    row: Row
    measured_s: float
    predicted_s: float
    slots: int

    @property
    def longer_s(self) -> float:
        """Seconds beyond the prediction, by slot."""
        return (self.measured_s - self.predicted_s) / self.slots

    @property
    def stalled(self) -> bool:
        return self.longer_s > STALLED_S and self.predicted_s < (1 - STALLED_SHARE) * self.measured_s


def played(rows: Iterable[Row]) -> list[Played]:
    """Every row that can be priced."""
    found = []
    for row in rows:
        if row.measured_step_time_s is None:
            continue
        try:
            case = make_case(row)
        except NotModelledError:
            continue
        slots = case.configuration.microbatches + case.configuration.mesh.pp - 1
        predicted = step_s(case.setting, case.configuration)
        found.append(Played(row, row.measured_step_time_s, predicted, slots))
    return found


def pairs(runs: Sequence[Played]) -> list[tuple[Played, Played]]:
    """Runs that state the same but for ZeRO 0 or 1."""
    groups: dict[tuple[object, ...], dict[int, Played]] = defaultdict(dict)
    for run in runs:
        row = run.row
        key = row.model, row.kv_heads, row.gpus, row.tp, row.pp, row.dp, row.mbs, row.gbs, row.seq_len, row.sp
        groups[key][row.zero_stage or 0] = run
    return [(group[0], group[1]) for group in groups.values() if {0, 1} <= group.keys()]


def floor(pair: tuple[Played, Played]) -> float:
    """Least mean error of both runs under one scale of their predictions (it lies where one of them is met)."""
    scales = [run.measured_s / run.predicted_s for run in pair]
    return min(mean(abs(scale * run.predicted_s / run.measured_s - 1) for run in pair) for scale in scales)


def _print(runs: Sequence[Played]) -> None:
    twins = pairs(runs)
    apart = [max(a.measured_s / b.measured_s, b.measured_s / a.measured_s) for a, b in twins]
    foretold = [max(a.predicted_s / b.predicted_s, b.predicted_s / a.predicted_s) for a, b in twins]
    print(f"{len(runs)} runs, {len(twins)} pairs that differ in the ZeRO stage alone")
    print(f"  measured apart by a median of {median(apart):.2f}x, {sum(each > 2 for each in apart)} by more than 2x,")
    print(
        f"  up to {max(apart):.0f}x; predicted apart by a median of {median(foretold):.2f}x, up to {max(foretold):.1f}x"
    )
    print(f"  least mean error of a pair under its best scale: {100 * mean(map(floor, twins)):.1f} % on average")
    stalled = [run for run in runs if run.stalled]
    if len(stalled) > 1:
        tenth, *_, last = quantiles([run.longer_s for run in stalled], n=10)
        print(f"{len(stalled)} runs stall: {tenth:.2f} to {last:.2f} s longer by microbatch (10-90 %)")
        for name, column in (("GPUs", "gpus"), ("microbatch", "mbs")):
            counts = defaultdict(list)
            for run in runs:
                counts[getattr(run.row, column) or 0].append(run.stalled)
            print(f"  by {name}: " + ", ".join(f"{key}: {sum(c)} of {len(c)}" for key, c in sorted(counts.items())))
    for name, chosen in (("all", runs), ("not stalled", [run for run in runs if not run.stalled])):
        errors = [abs(run.predicted_s / run.measured_s - 1) for run in chosen]
        print(f"{name}: {len(chosen)} runs, MAPE {100 * mean(errors):.1f} %, median {100 * median(errors):.1f} %")


if __name__ == "__main__":
    file, name = sys.argv[1:3]
    _print(played(row for row in read_rows(Path(file)) if name in row.framework))
