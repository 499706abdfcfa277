"""The picture of a sweep: step time with its interval, and throughput."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .chart import BAD, FAINT, GOOD, grid
from .sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .chart import Canvas


def draw_sweep(canvas: Canvas, sweep: Sweep) -> None:
    """Step time and throughput against the field; what does not fit is hollow and red, what is illegal is named."""
    upper, lower = canvas.subplots(2, 1, sharex=True)
    _intervals(upper, sweep)
    _curve(upper, sweep, [row.simulation.step_time_s if row.simulation else math.nan for row in sweep.rows])
    upper.set(title="step time", ylabel="step time, s")
    speeds = [row.simulation.prediction.tokens_per_s_per_device if row.simulation else math.nan for row in sweep.rows]
    _curve(lower, sweep, speeds)
    _utilisation(lower, sweep, speeds)
    lower.set(title="throughput, labelled with MFU", ylabel="tokens/s per device", xlabel=sweep.field)
    lower.yaxis.set_major_formatter("{x:,.0f}")
    ticks = [row.value if row.simulation else f"{row.value}\n(illegal)" for row in sweep.rows]
    lower.set_xticks(range(len(sweep.rows)), ticks)
    lower.set_ylim(0, 1.25 * max(speed for speed in speeds if speed == speed))
    upper.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0, fontsize=8)
    for axes in (upper, lower):
        axes.margins(x=0.08)
        grid(axes)


def _curve(axes: Axes, sweep: Sweep, heights: Sequence[float]) -> None:
    axes.plot(range(len(heights)), heights, color=GOOD, linewidth=1, zorder=2)
    styles: tuple[tuple[bool, dict[str, Any]], ...] = (
        (True, {"color": GOOD, "label": "fits in memory"}),
        (False, {"facecolors": "white", "edgecolors": BAD, "label": "does not fit in memory"}),
    )
    for fits, style in styles:
        chosen = [place for place, row in enumerate(sweep.rows) if row.simulation and (not row.reason) is fits]
        if chosen:
            axes.scatter(chosen, [heights[place] for place in chosen], s=45, linewidths=1.5, zorder=3, **style)


def _intervals(axes: Axes, sweep: Sweep) -> None:
    """How far off the step time may be; on a logarithmic axis where it spans more than a factor of twenty."""
    spans = {x: row.simulation.prediction.step_time_interval_s for x, row in enumerate(sweep.rows) if row.simulation}
    low, high = ([span[end] for span in spans.values()] for end in (0, 1))
    axes.vlines(list(spans), low, high, color=FAINT, linewidth=5, zorder=1, label="interval of the prediction")
    if max(high) > 20 * min(low):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, 1.15 * max(high))


def _utilisation(axes: Axes, sweep: Sweep, heights: Sequence[float]) -> None:
    for place, row in enumerate(sweep.rows):
        if row.simulation:
            text, at = f"{row.simulation.prediction.mfu:.1%}", (place, heights[place])
            axes.annotate(text, at, (0, 8), textcoords="offset points", ha="center", fontsize=8)
