"""What all pictures share: colours, style, and small parts of axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    Canvas = Figure | SubFigure

# Okabe and Ito's palette: told apart by every kind of colour vision, and in grey.
COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#F0E442", "#999999", "#000000")
GOOD, BAD, FAINT = "#0072B2", "#D55E00", "#BBBBBB"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "meshwright",
}


def legend(axes: Axes) -> None:
    """To the right of the axes."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, borderaxespad=0)


def grid(axes: Axes) -> None:
    """Faint horizontal lines behind what is drawn."""
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)


def bars(axes: Axes, names: list[str], widths: list[float], labels: list[str], colours: list[str]) -> None:
    """Horizontal bars from the top down, each with its label at the end."""
    places = range(len(names))
    axes.barh(places, widths, color=colours, height=0.7)
    for place, width, label in zip(places, widths, labels, strict=True):
        axes.annotate(label, (width, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * max(widths))
