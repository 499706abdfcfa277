"""A picture of predictions beside what was measured: every run, and how far each source is off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..simulate.picture import figure_svg, save_figure
from .accuracy import by, step_time_accuracy
from .comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow, which is lost on white; the sources with the most runs get a colour of
# their own, all others share a grey: nobody tells thirty colours apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_OTHER, _BAND = "#999999", "#E5E5E5"
_NEAR = 0.1
_WIDEST = 1.0  # the error axis ends here; what is farther is drawn at its edge, and the tables name it
_NAME = 52


def save_picture(rows: Sequence[Comparison], path: Path) -> None:
    """Draw the runs that have a measured and a predicted step time into a .png or .svg file."""
    save_figure(lambda: draw(rows), path)


def svg(rows: Sequence[Comparison]) -> str:
    """The same picture as the text of an <svg> element."""
    return figure_svg(lambda: draw(rows))


def draw(rows: Sequence[Comparison]) -> Figure:
    """Predicted against measured step times on logarithmic axes, beside the errors of each source."""
    from matplotlib.figure import Figure

    timed = [row for row in rows if row.judged and row.error is not None]
    counts = Counter(row.source for row in timed)
    sources = [source for source, _ in counts.most_common()]
    colours = dict(zip(sources, _COLOURS, strict=False)) if len(sources) > 1 else dict.fromkeys(sources, _COLOURS[0])
    figure = Figure(figsize=(13, max(8.0, 1.4 + 0.24 * len(sources))), layout="constrained")
    axes = figure.subplot_mosaic([["runs", "sources"], ["errors", "sources"]], height_ratios=(1.0, 0.3))
    _scatter(axes["runs"], timed, sources, colours)
    _histogram(axes["errors"], timed)
    _errors(axes["sources"], timed, sources, colours)
    return figure


def _scatter(axes: Axes, timed: Sequence[Comparison], sources: Sequence[str], colours: dict[str, str]) -> None:
    found = step_time_accuracy(timed)
    judged = f": off by {found.mape:.1%} on average" if found.mape is not None else ""
    axes.set(xscale="log", yscale="log", xlabel="measured step time, s", ylabel="predicted step time, s")
    axes.set(title=f"{found.rows:,} runs{judged}\nhollow: part of the configuration is assumed; band: 10 %")
    times = [value for row in timed for value in (row.measured_step_time_s, row.predicted_step_time_s) if value]
    line = np.array([min(times, default=0.1) / 1.3, max(times, default=10.0) * 1.3])
    axes.fill_between(line, line * (1 - _NEAR), line * (1 + _NEAR), color=_BAND, linewidth=0)
    axes.plot(line, line, color="black", linewidth=0.8)
    axes.set(xlim=tuple(line), ylim=tuple(line))
    for source in sources:  # from many runs to few, so that none is hidden
        colour = colours.get(source, _OTHER)
        for complete, face in ((False, "none"), (True, colour)):
            part = [row for row in timed if row.source == source and row.complete is complete]
            measured = np.array([row.measured_step_time_s for row in part], dtype=float)
            predicted = np.array([row.predicted_step_time_s for row in part], dtype=float)
            axes.scatter(measured, predicted, s=12, facecolors=face, edgecolors=colour, linewidths=0.6, alpha=0.6)


def _histogram(axes: Axes, timed: Sequence[Comparison]) -> None:
    errors = np.clip([row.error for row in timed if row.error is not None], -_WIDEST, _WIDEST)
    widest = max(3 * _NEAR, float(np.abs(errors).max(initial=0.0)))
    axes.axvspan(-_NEAR, _NEAR, color=_BAND, linewidth=0)
    axes.hist(errors, bins=np.linspace(-widest, widest, 61).tolist(), color=_COLOURS[0])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(title="errors of all runs", xlabel="predicted / measured - 1", ylabel="runs", xlim=(-widest, widest))
    axes.xaxis.set_major_formatter(_percent)


def _percent(value: float, _: float) -> str:
    return f"{value:+.0%}" if round(100 * value) else "0%"


def _errors(axes: Axes, timed: Sequence[Comparison], sources: Sequence[str], colours: dict[str, str]) -> None:
    errors = by(lambda row: row.source, timed, lambda part: [row.error for row in part])
    axes.axvspan(-_NEAR, _NEAR, color=_BAND, linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    for place, source in enumerate(sources):
        values = np.clip(np.array(errors[source], dtype=float), -_WIDEST, _WIDEST)
        low, first, middle, third, high = np.percentile(values, (5, 25, 50, 75, 95))
        colour = colours.get(source, _OTHER)
        axes.hlines(place, low, high, color=colour, linewidth=1)
        axes.hlines(place, first, third, color=colour, linewidth=5)
        axes.plot(middle, place, "o", markersize=6, color="white", markeredgecolor=colour, markeredgewidth=1.5)
    axes.set_yticks(range(len(sources)), [f"{_short(source)} ({len(errors[source]):,})" for source in sources])
    for label, source in zip(axes.get_yticklabels(), sources, strict=True):
        label.set_color(colours.get(source, "#666666"))
    widest = 1.05 * max(2 * _NEAR, *np.abs(axes.get_xlim()))
    axes.set(xlim=(-widest, widest), ylim=(len(sources) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(_percent)
    axes.set(title="error of each source: median, quartiles, 5 to 95 %", xlabel="predicted / measured - 1")


def _short(source: str) -> str:
    return source if len(source) <= _NAME else f"{source[: _NAME - 1]}…"
