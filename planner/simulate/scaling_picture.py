"""The picture of a scaling curve: throughput beside the ideal line, and efficiency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .chart import BAD, FAINT, GOOD, grid
from .scaling import Point, Scaling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .chart import Canvas


def draw_scaling(canvas: Canvas, scaling: Scaling) -> None:
    """Tokens per second over devices with the ideal line; efficiency labelled with MFU. Hollow: does not fit."""
    upper, lower = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    points = [point for point in scaling.points if point.simulation]
    _throughput(upper, scaling, points)
    _efficiency(lower, scaling, points)
    lower.set_xlabel(_devices_label(scaling))
    lower.set_xticks([point.devices for point in points], [f"{point.devices:,}" for point in points])
    lower.set_xticks([], minor=True)


def _devices_label(scaling: Scaling) -> str:
    illegal = [f"{point.devices:,}" for point in scaling.points if point.simulation is None]
    return "devices" + (f" (illegal: {', '.join(illegal)})" if illegal else "")


def _throughput(axes: Axes, scaling: Scaling, points: list[Point]) -> None:
    from matplotlib.ticker import LogLocator

    base = scaling.base
    speeds = [point.simulation.tokens_per_s for point in points if point.simulation]
    if base.simulation:
        ideal = [base.simulation.tokens_per_s * point.devices / base.devices for point in points]
        axes.plot([point.devices for point in points], ideal, color=FAINT, linestyle="--", label="ideal")
    _marks(axes, points, speeds)
    axes.set_xscale("log")
    axes.set_yscale("log")
    kept = "the global batch" if scaling.kind == "strong" else "the batch of a device"
    axes.set(title=f"{scaling.kind} scaling: {kept} stays", ylabel="tokens/s")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter("{x:,.0f}")
    axes.legend(frameon=False, loc="upper left")
    grid(axes)


def _efficiency(axes: Axes, scaling: Scaling, points: list[Point]) -> None:
    shares = [scaling.efficiency(point) or 0.0 for point in points]
    axes.axhline(1.0, color=FAINT, linestyle="--")
    _marks(axes, points, shares)
    for point, share in zip(points, shares, strict=True):
        if point.simulation:
            text = f"{point.simulation.prediction.mfu:.1%}"
            at = (point.devices, share)
            axes.annotate(text, at, (0, 8), textcoords="offset points", ha="center", fontsize=8)
    axes.set(title=f"efficiency against {scaling.base.devices:,} devices, labelled with MFU", ylabel="efficiency")
    axes.set_ylim(0, 1.3 * max(1.0, *shares))
    axes.yaxis.set_major_formatter("{x:.0%}")
    grid(axes)


def _marks(axes: Axes, points: list[Point], heights: list[float]) -> None:
    counts = [point.devices for point in points]
    axes.plot(counts, heights, color=GOOD, linewidth=1, zorder=2)
    for fits, face, edge, label in ((True, GOOD, GOOD, "fits in memory"), (False, "white", BAD, "does not fit")):
        chosen = [place for place, point in enumerate(points) if (not point.reason) is fits]
        if chosen:
            x, y = [counts[place] for place in chosen], [heights[place] for place in chosen]
            axes.scatter(x, y, s=45, facecolors=face, edgecolors=edge, linewidths=1.5, zorder=3, label=label)
