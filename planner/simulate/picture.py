"""Pictures of a simulation and of a sweep, as PNG or SVG.

Drawn on matplotlib's figures directly: no window, no global state, and equal input gives an equal file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...schema import writing
from ...units import format_seconds
from ..plan import Breakdown, StageMemory
from .simulation import Simulation
from .sweep import Sweep
from .timeline import Span, Stream, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by every kind of colour vision, and in grey.
_COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#F0E442", "#999999", "#000000")
_GOOD, _BAD, _FAINT = "#0072B2", "#D55E00", "#BBBBBB"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "meshwright",
}
_GIB = 2**30
_LANES = (
    ("F", "forward", _COLOURS[0]),
    ("B", "backward", _COLOURS[1]),
    ("gather", "gather weights", _COLOURS[2]),
    ("reduce", "reduce gradients", _COLOURS[3]),
    ("gather and reduce", "gather and reduce", _COLOURS[3]),
    ("sum tied", "sum tied gradients", _COLOURS[4]),
    ("optimizer", "optimizer", _COLOURS[5]),
    ("offload", "offload", _COLOURS[7]),
)
"""Spans of the timeline: name, what it is called, colour."""


def save_picture(subject: Simulation | Sweep, path: Path) -> None:
    """Draw a simulation or a sweep into a .png or .svg file. Raises InputError on another suffix."""
    save_figure(lambda: _draw(subject), path)


def svg(subject: Simulation | Sweep) -> str:
    """The same picture as the text of an <svg> element, to stand inside a page."""
    return figure_svg(lambda: _draw(subject))


def _draw(subject: Simulation | Sweep) -> Figure:
    return draw_sweep(subject) if isinstance(subject, Sweep) else draw_simulation(subject)


def check_suffix(path: Path) -> None:
    """Before long work that ends in a picture. Raises InputError on what is neither .png nor .svg."""
    if path.suffix.lower() not in (".png", ".svg"):
        rule = "must end in .png or .svg"
        raise InputError.single("command line", "--picture", str(path), rule, str(path.with_suffix(".png")))


def save_figure(draw: Callable[[], Figure], path: Path) -> None:
    """What `draw` draws in our style, as a .png or .svg file. Raises InputError on another suffix."""
    import matplotlib

    check_suffix(path)
    with matplotlib.rc_context(_STYLE):
        figure = draw()
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        with writing(path):
            figure.savefig(path, dpi=150, metadata=metadata)


def figure_svg(draw: Callable[[], Figure]) -> str:
    """What `draw` draws, as the text of an <svg> element."""
    import io

    import matplotlib

    with matplotlib.rc_context(_STYLE):
        out = io.StringIO()
        draw().savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def draw_simulation(simulation: Simulation) -> Figure:
    """Where the time goes, what the memory holds, and who computes when."""
    from matplotlib.figure import Figure

    ranks = simulation.scenario.configuration.mesh.pp
    heights = (1.0, 0.9 + 0.22 * min(ranks, 16), 0.7 + 0.22 * min(ranks, 16))
    figure = Figure(figsize=(9, 2.2 + sum(heights)), layout="constrained")
    rows = figure.subplots(3, 1, height_ratios=heights)
    _breakdown(rows[0], simulation.prediction.breakdown_s)
    _memory(rows[1], simulation)
    _timeline(rows[2], simulation)
    return figure


def _breakdown(axes: Axes, breakdown: Breakdown) -> None:
    left, total = 0.0, breakdown.total
    for (name, seconds), colour in zip(dict(breakdown).items(), _COLOURS, strict=True):
        if seconds <= 0:
            continue
        label = f"{name} {format_seconds(seconds)} ({seconds / total:.1%})"
        axes.barh(0, seconds, left=left, color=colour, label=label)
        left += seconds
    axes.set(title=f"step time: {format_seconds(total)}", xlabel="seconds", yticks=[], xlim=(0, total))
    _legend(axes)


def _memory(axes: Axes, simulation: Simulation) -> None:
    prediction = simulation.prediction
    ranks = range(len(prediction.memory))
    left = [0.0] * len(ranks)
    for part, colour in zip(StageMemory.model_fields, _COLOURS, strict=False):
        widths = [getattr(memory, part) / _GIB for memory in prediction.memory]
        if any(widths):
            axes.barh(ranks, widths, left=left, color=colour, label=part, height=0.75)
            left = [start + width for start, width in zip(left, widths, strict=True)]
    for rank, end in zip(ranks, left, strict=True):
        axes.annotate(f"{end:.1f}", (end, rank), (3, 0), textcoords="offset points", va="center", fontsize=8)
    limit = prediction.memory_limit_bytes / _GIB
    axes.axvline(limit, color="black", linestyle="--", linewidth=1, label=f"limit {limit:.1f} GiB")
    verdict = "fits" if prediction.fits else "does not fit"
    axes.set(title=f"memory of the busiest device: {verdict}", xlabel="GiB", ylabel="pipeline rank")
    axes.set_xlim(0, max(limit, *left) * 1.06)
    _ranks(axes, len(ranks))
    _legend(axes)


def _timeline(axes: Axes, simulation: Simulation) -> None:
    """Two lanes a rank: its compute above, its data-parallel stream below where anything is on it."""
    timeline = simulation.timeline
    ranks = len(timeline.busy_s)
    edge = 0.3 if len(timeline.of("compute")) <= 40 * ranks else 0.0  # where bars are thin, edges would hide them
    height = 0.5 if timeline.of("data parallel") else 0.8
    for name, label, colour in _LANES:
        stream, spans = _named(timeline, name)
        place = -0.4 if stream == "compute" else -0.4 + height
        style: dict[str, Any] = {"color": colour, "edgecolor": "white", "linewidth": edge}
        for rank in sorted({span.rank for span in spans}):
            bars = [(span.start_s, span.end_s - span.start_s) for span in spans if span.rank == rank]
            lane = rank + place, height if stream == "compute" else 0.8 - height
            axes.broken_barh(bars, lane, label=label if rank == spans[0].rank else None, **style)
    busy = sum(timeline.busy_s) / (timeline.makespan_s * ranks)
    title = f"pipeline: {format_seconds(timeline.makespan_s)}, of which ranks work {busy:.1%}"
    axes.set(title=title, xlabel="seconds", ylabel="pipeline rank", xlim=(0, simulation.step_time_s))
    _ranks(axes, ranks)
    _legend(axes)


def _named(timeline: Timeline, name: str) -> tuple[Stream, tuple[Span, ...]]:
    """The spans of one name but for transfers, which are too short to be seen, and the stream that they are on."""
    spans = tuple(span for span in timeline.spans if span.name == name)
    return (spans[0].stream if spans else "compute"), spans


def _ranks(axes: Axes, ranks: int) -> None:
    step = max(1, -(-ranks // 16))
    axes.set_yticks(range(0, ranks, step))
    axes.set_ylim(ranks - 0.4, -0.6)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, borderaxespad=0)


def draw_sweep(sweep: Sweep) -> Figure:
    """Step time and throughput against the field; what does not fit is hollow and red, what is illegal is named."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
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
        axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure


def _curve(axes: Axes, sweep: Sweep, heights: Sequence[float]) -> None:
    axes.plot(range(len(heights)), heights, color=_GOOD, linewidth=1, zorder=2)
    styles: tuple[tuple[bool, dict[str, Any]], ...] = (
        (True, {"color": _GOOD, "label": "fits in memory"}),
        (False, {"facecolors": "white", "edgecolors": _BAD, "label": "does not fit in memory"}),
    )
    for fits, style in styles:
        chosen = [place for place, row in enumerate(sweep.rows) if row.simulation and (not row.reason) is fits]
        if chosen:
            axes.scatter(chosen, [heights[place] for place in chosen], s=45, linewidths=1.5, zorder=3, **style)


def _intervals(axes: Axes, sweep: Sweep) -> None:
    """How far off the step time may be; on a logarithmic axis where it spans more than a factor of twenty."""
    spans = {x: row.simulation.prediction.step_time_interval_s for x, row in enumerate(sweep.rows) if row.simulation}
    low, high = ([span[end] for span in spans.values()] for end in (0, 1))
    axes.vlines(list(spans), low, high, color=_FAINT, linewidth=5, zorder=1, label="interval of the prediction")
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
