"""Pictures of a trace: loads of all experts, co-activation in one layer, and how loads drift over windows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..simulate.chart import COLOURS, grid
from ..simulate.picture import save_figure
from .counts import windowed
from .statistics import lifts
from .trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


def save_trace_picture(trace: Trace, path: Path, layer: int = 0, window: int = 4096) -> None:
    """A .png or .svg file. `layer` is the place of the layer in the trace. Raises InputError on another suffix."""
    save_figure(lambda: draw_trace(trace, layer, window), path)


def draw_trace(trace: Trace, layer: int = 0, window: int = 4096) -> Figure:
    """Three parts, one under another."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 12), layout="constrained")
    parts = figure.subfigures(3, 1, height_ratios=(4, 5, 3), squeeze=False)[:, 0]
    _load(parts[0], trace)
    _together(parts[1], trace, layer)
    _drift(parts[2].subplots(), trace, layer, window)
    return figure


def _load(part: SubFigure, trace: Trace) -> None:
    """Load of every expert over the mean, layers down, the most loaded of each to the left."""
    axes = part.subplots()
    loads = np.stack(
        [np.bincount(rows.ravel(), minlength=trace.num_experts) for rows in trace.experts.transpose(1, 0, 2)]
    )
    share = -np.sort(-loads, axis=1) / loads.mean(1, keepdims=True)
    image = axes.imshow(share, aspect="auto", interpolation="nearest", cmap="cividis")
    axes.set(title="load over the mean", xlabel="experts, most loaded first", ylabel="layer")
    part.colorbar(image, ax=axes)


def _together(part: SubFigure, trace: Trace, layer: int) -> None:
    """How often two experts serve one token, over what their loads make expected."""
    axes = part.subplots()
    rows = np.ascontiguousarray(trace.experts[:, layer].T)
    image = axes.imshow(lifts(rows, trace.num_experts), interpolation="nearest", cmap="cividis", vmin=0, vmax=4)
    axes.set(title=f"co-activation in layer {layer}: tokens with both over chance", xlabel="expert", ylabel="expert")
    part.colorbar(image, ax=axes)


def _drift(axes: Axes, trace: Trace, layer: int, window: int) -> None:
    """Loads of the experts over windows: the five most loaded by name, the spread of all behind."""
    loads = windowed(np.ascontiguousarray(trace.experts[:, layer].T), trace.num_experts, window)
    share = loads / loads.mean(1, keepdims=True)
    places = np.arange(len(share))
    axes.fill_between(places, share.min(1), share.max(1), color="#DDDDDD", label="all experts")
    for expert, colour in zip(np.argsort(-loads.mean(0), kind="stable")[:5], COLOURS, strict=False):
        axes.plot(places, share[:, expert], color=colour, marker=".", label=f"expert {expert}")
    axes.set(title=f"load in layer {layer} over windows of {window:,} tokens", xlabel="window", ylabel="over the mean")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    grid(axes)
