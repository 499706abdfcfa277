"""A picture of every schedule: `python -m meshwright.planner.simulate.schedules_picture docs/schedules.png`.

Four ranks, eight microbatches; a forward takes one second of a whole rank, an input gradient and a weight gradient one
each, a whole backward two; a rank with two stages takes half of that for each. Transfers are free. Numbers are
microbatches; hatched are the stages on the way back up a V, or of later rounds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..schedule import Schedule, make, table
from .chart import COLOURS
from .engine import run
from .picture import save_figure
from .timeline import Span
from .work import Work

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANKS, MICROBATCHES = 4, 8
_COLOURS = {"F": COLOURS[0], "B": COLOURS[1], "I": COLOURS[1], "W": COLOURS[6]}
_NAMES = {"F": "forward (F)", "B": "backward (B)", "I": "input gradient (I)", "W": "weight gradient (W)"}


def draw_schedules() -> Figure:
    """One row of axes for each schedule, on one scale of time."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    schedules = [make(name, RANKS, MICROBATCHES, builder.chunks.start) for name, builder in table().items()]
    figure = Figure(figsize=(11, 1.35 * len(schedules) + 0.4), layout="constrained")
    rows = figure.subplots(len(schedules), 1, sharex=True, squeeze=False)
    for axes, schedule in zip(rows.flat, schedules, strict=True):
        _schedule(axes, schedule)
    rows.flat[-1].set_xlabel("seconds")
    shown = {_NAMES[kind]: Patch(color=colour) for kind, colour in _COLOURS.items() if kind != "I"}
    shown["backward (B), input gradient (I)"] = shown.pop("backward (B)")
    figure.legend(shown.values(), shown.keys(), loc="outside upper right", ncols=3, frameon=False)
    return figure


def _schedule(axes: Axes, schedule: Schedule) -> None:
    share = schedule.ranks / schedule.stages
    whole, half = (share,) * schedule.stages, (2 * share,) * schedule.stages
    timeline = run(schedule, Work(whole, half, input_s=whole, weight_s=whole))
    for span in timeline.of("compute"):
        _bar(axes, span, schedule.ranks)
    idle = 1 - sum(timeline.busy_s) / timeline.makespan_s / schedule.ranks
    held = max(schedule.in_flight(rank) for rank in range(schedule.ranks)) * share
    axes.set_title(f"{schedule.name}: {idle:.0%} idle, holds {held:g} microbatches of a rank at most")
    axes.set(yticks=range(schedule.ranks), ylim=(schedule.ranks - 0.5, -0.5), ylabel="rank")


def _bar(axes: Axes, span: Span, ranks: int) -> None:
    assert span.action is not None
    width, later = span.end_s - span.start_s, span.action.stage >= ranks
    axes.barh(
        span.rank, width, left=span.start_s, height=0.9, color=_COLOURS[span.name], edgecolor="white", linewidth=0.5,
        hatch="////" if later else None,
    )  # fmt: skip
    middle = span.start_s + width / 2
    axes.text(middle, span.rank, str(span.action.microbatch), ha="center", va="center", fontsize=5.5, color="black")


if __name__ == "__main__":
    save_figure(draw_schedules, Path(sys.argv[1]))
