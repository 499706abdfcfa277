"""The picture of clusters compared: time against price."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...units import format_seconds
from ..simulate.chart import BAD, COLOURS, FAINT, legend
from ..simulate.picture import save_figure
from .pareto import Offer, Pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X<>"


def save_pareto(found: Pareto, path: Path) -> None:
    """Into a .png or .svg file. Raises InputError on another suffix."""
    save_figure(lambda: draw_pareto(found), path)


def draw_pareto(found: Pareto) -> Figure:
    """Each offer a mark with its devices, filled where it is optimal; a line joins those, dashed: the deadline."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(1, 1)
    best = sorted((offer for offer in found.planned if offer.optimal), key=lambda offer: offer.step_time_s)
    axes.plot([each.step_time_s for each in best], [_price(each) for each in best], color=FAINT, zorder=1)
    for place, name in enumerate(dict.fromkeys(offer.cluster for offer in found.planned)):
        _marks(axes, place, name, [offer for offer in found.planned if offer.cluster == name])
    _deadline(axes, found)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: format_seconds(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.yaxis.set_major_formatter(lambda value, _: f"${value:.3g}")
    axes.set(title="time against price; filled: no other is faster and cheaper", xlabel="step time")
    axes.set_ylabel("price of a million tokens")
    legend(axes)
    return figure


def _price(offer: Offer) -> float:
    return offer.price_per_million_tokens


def _marks(axes: Axes, place: int, name: str, offers: list[Offer]) -> None:
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    faces = [colour if offer.optimal else "white" for offer in offers]
    times, prices = [offer.step_time_s for offer in offers], [_price(offer) for offer in offers]
    axes.scatter(times, prices, s=45, c=faces, edgecolors=colour, marker=marker, linewidths=1.5, zorder=2)
    axes.plot([], [], color=colour, marker=marker, linestyle="", label=name)
    for offer in offers:
        at = (offer.step_time_s, _price(offer))
        axes.annotate(f"{offer.devices:,}", at, (0, 7), textcoords="offset points", ha="center", fontsize=8)


def _deadline(axes: Axes, found: Pareto) -> None:
    offer = found.fastest
    if found.deadline_s is None or offer.plan is None or offer.plan.goal.tokens is None:
        return
    limit_s = found.deadline_s * offer.plan.job.tokens_per_step / offer.plan.goal.tokens
    axes.axvline(limit_s, color=BAD, linestyle="--", linewidth=1, label=f"deadline {format_seconds(found.deadline_s)}")
