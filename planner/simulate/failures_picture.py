"""The picture of failures: the share of time that trains, against the checkpoint interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...units import format_seconds
from .chart import BAD, COLOURS, GOOD, grid
from .failures import Reliability, effective_ratio

if TYPE_CHECKING:
    from .chart import Canvas

_AROUND = [10 ** (place / 20 - 1.5) for place in range(61)]
"""Thirty times shorter to thirty times longer than the interval chosen."""


def draw_failures(canvas: Canvas, reliability: Reliability) -> None:
    """ETTR over intervals, with Daly's and Young's."""
    axes = canvas.subplots(1, 1)
    found, rate = reliability, 1 / reliability.mtbf_s
    intervals = [found.checkpoint_interval_s * scale for scale in _AROUND]
    ratios = [effective_ratio(rate, interval, found.save_s, found.restart_s) for interval in intervals]
    axes.plot([interval / 60 for interval in intervals], ratios, color=COLOURS[0])
    for name, interval, ratio, colour, drop in (
        ("Daly", found.checkpoint_interval_s, found.ettr, GOOD, -14),
        ("Young", found.young_interval_s, found.young_ettr, BAD, -28),
    ):
        axes.scatter([interval / 60], [ratio], color=colour, s=45, zorder=3)
        text = f"{name}: {format_seconds(interval)}, {ratio:.2%}"
        axes.annotate(text, (interval / 60, ratio), (0, drop), textcoords="offset points", ha="center", fontsize=8)
    failing = f"a failure every {format_seconds(found.mtbf_s)}, {format_seconds(found.restart_s)} to restart"
    axes.set(title=f"time that trains: {failing}", xlabel="minutes between checkpoints", ylabel="share of wall time")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%")  # 97.5 %, not 98 %
    axes.set_ylim(max(0.0, 1.5 * min(ratios) - 0.5), 1.0)
    grid(axes)
