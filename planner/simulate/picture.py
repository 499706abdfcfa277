"""Pictures as PNG or SVG: of one step here, of each what-if in the file of its name.

Drawn on matplotlib's figures directly: no window, no global state, and equal input gives an equal file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...schema import writing
from ...units import format_seconds
from ..plan import Breakdown, StageMemory
from .chart import COLOURS, STYLE, legend
from .energy import Bill
from .energy_picture import draw_energy
from .failures import Reliability
from .failures_picture import draw_failures
from .lengths_picture import draw_assignment
from .redundancy import Redundancy
from .scaling import Scaling
from .scaling_picture import draw_scaling
from .simulation import Simulation
from .straggler_picture import draw_redundancy, draw_stragglers, straggler_height
from .stragglers import Stragglers
from .sweep import Sweep
from .sweep_picture import draw_sweep
from .timeline import Span, Stream, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .chart import Canvas

Subject = Simulation | Sweep | Scaling | Reliability | Stragglers | Redundancy | Bill

_GIB = 2**30
_LANES = (
    ("F", "forward", COLOURS[0]),
    ("B", "backward", COLOURS[1]),
    ("I", "input gradient", COLOURS[1]),
    ("W", "weight gradient", COLOURS[6]),
    ("gather", "gather weights", COLOURS[2]),
    ("reduce", "reduce gradients", COLOURS[3]),
    ("gather and reduce", "gather and reduce", COLOURS[3]),
    ("sum tied", "sum tied gradients", COLOURS[4]),
    ("optimizer", "optimizer", COLOURS[5]),
    ("offload", "offload", COLOURS[7]),
)
"""Spans of the timeline: name, what it is called, colour."""


def save_picture(subjects: Sequence[Subject], path: Path) -> None:
    """Draw subjects one under another into a .png or .svg file. Raises InputError on another suffix."""
    save_figure(lambda: draw(subjects), path)


def svg(subject: Subject) -> str:
    """The same picture as the text of an <svg> element, to stand inside a page."""
    return figure_svg(lambda: draw([subject]))


def check_suffix(path: Path) -> None:
    """Before long work that ends in a picture. Raises InputError on what is neither .png nor .svg."""
    if path.suffix.lower() not in (".png", ".svg"):
        rule = "must end in .png or .svg"
        raise InputError.single("command line", "--picture", str(path), rule, str(path.with_suffix(".png")))


def save_figure(make: Callable[[], Figure], path: Path) -> None:
    """What `make` draws in our style, as a .png or .svg file. Raises InputError on another suffix."""
    import matplotlib

    check_suffix(path)
    with matplotlib.rc_context(STYLE):
        figure = make()
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        with writing(path):
            figure.savefig(path, dpi=150, metadata=metadata)


def figure_svg(make: Callable[[], Figure]) -> str:
    """What `make` draws, as the text of an <svg> element."""
    import io

    import matplotlib

    with matplotlib.rc_context(STYLE):
        out = io.StringIO()
        make().savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def draw(subjects: Sequence[Subject]) -> Figure:
    """One figure of all subjects, each as high as it needs."""
    from matplotlib.figure import Figure

    heights = [_height(subject) for subject in subjects]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(subjects), 1, height_ratios=heights, squeeze=False)
    for part, subject in zip(parts.flat, subjects, strict=True):
        _draw(part, subject)
    return figure


def _height(subject: Subject) -> float:
    """Inches."""
    if isinstance(subject, Simulation):
        return 2.2 + sum(_heights(subject))
    if isinstance(subject, Stragglers | Redundancy):
        return straggler_height(subject)
    return 2.2 if isinstance(subject, Bill) else 3.6 if isinstance(subject, Reliability) else 6.0


def _draw(canvas: Canvas, subject: Subject) -> None:
    if isinstance(subject, Sweep):
        draw_sweep(canvas, subject)
    elif isinstance(subject, Scaling):
        draw_scaling(canvas, subject)
    elif isinstance(subject, Reliability):
        draw_failures(canvas, subject)
    elif isinstance(subject, Bill):
        draw_energy(canvas, subject)
    elif isinstance(subject, Stragglers):
        draw_stragglers(canvas, subject)
    elif isinstance(subject, Redundancy):
        draw_redundancy(canvas, subject)
    else:
        _step(canvas, subject)


def _heights(simulation: Simulation) -> tuple[float, float, float]:
    ranks = simulation.scenario.configuration.mesh.pp
    if simulation.lengths is not None:
        return 1.0, 0.9 + 0.22 * min(ranks, 16), 3.6
    return 1.0, 0.9 + 0.22 * min(ranks, 16), 0.7 + 0.22 * min(ranks, 16)


def _step(canvas: Canvas, simulation: Simulation) -> None:
    """Where the time goes, what the memory holds, and who computes when."""
    rows = canvas.subplots(3, 1, height_ratios=_heights(simulation))
    _breakdown(rows[0], simulation.prediction.breakdown_s)
    _memory(rows[1], simulation)
    if simulation.lengths is None:
        _timeline(rows[2], simulation)
    else:
        draw_assignment(rows[2], simulation.lengths.steps[0])


def _breakdown(axes: Axes, breakdown: Breakdown) -> None:
    left, total = 0.0, breakdown.total
    for (name, seconds), colour in zip(dict(breakdown).items(), COLOURS, strict=True):
        if seconds <= 0:
            continue
        label = f"{name} {format_seconds(seconds)} ({seconds / total:.1%})"
        axes.barh(0, seconds, left=left, color=colour, label=label)
        left += seconds
    axes.set(title=f"step time: {format_seconds(total)}", xlabel="seconds", yticks=[], xlim=(0, total))
    legend(axes)


def _memory(axes: Axes, simulation: Simulation) -> None:
    prediction = simulation.prediction
    ranks = range(len(prediction.memory))
    left = [0.0] * len(ranks)
    for part, colour in zip(StageMemory.model_fields, COLOURS, strict=False):
        widths = [getattr(memory, part) / _GIB for memory in prediction.memory]
        if any(widths):
            axes.barh(ranks, widths, left=left, color=colour, label=part, height=0.75)
            left = [start + width for start, width in zip(left, widths, strict=True)]
    for rank, end in zip(ranks, left, strict=True):
        axes.annotate(f"{end:.1f}", (end, rank), (3, 0), textcoords="offset points", va="center", fontsize=8)
    limits = [limit / _GIB for limit in prediction.limits_bytes]
    label = f"limit {min(limits):.1f} GiB" if len(set(limits)) == 1 else "limit of its device"
    lows, highs = [rank - 0.5 for rank in ranks], [rank + 0.5 for rank in ranks]
    axes.vlines(limits, lows, highs, color="black", linestyle="--", linewidth=1, label=label)
    verdict = "fits" if prediction.fits else "does not fit"
    axes.set(title=f"memory of the busiest device: {verdict}", xlabel="GiB", ylabel="pipeline rank")
    axes.set_xlim(0, max(*limits, *left) * 1.06)
    _ranks(axes, len(ranks))
    legend(axes)


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
    legend(axes)


def _named(timeline: Timeline, name: str) -> tuple[Stream, tuple[Span, ...]]:
    """The spans of one name but for transfers, which are too short to be seen, and the stream that they are on."""
    spans = tuple(span for span in timeline.spans if span.name == name)
    return (spans[0].stream if spans else "compute"), spans


def _ranks(axes: Axes, ranks: int) -> None:
    step = max(1, -(-ranks // 16))
    axes.set_yticks(range(0, ranks, step))
    axes.set_ylim(ranks - 0.4, -0.6)
