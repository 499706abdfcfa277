"""The pictures of stragglers: the step with one slow place, and the step that redundancy makes of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .chart import BAD, COLOURS, GOOD, bars
from .redundancy import Redundancy
from .stragglers import Stragglers

if TYPE_CHECKING:
    from .chart import Canvas

MOST_BARS = 32
_SLOW = {"node": "the network of one node"}  # what is slow, where it is not the place itself


def straggler_height(subject: Stragglers | Redundancy) -> float:
    """Inches that the bars need."""
    count = len(subject.schemes) if isinstance(subject, Redundancy) else len(_shown(subject)) + 1
    return 1.2 + 0.25 * count


def draw_stragglers(canvas: Canvas, found: Stragglers) -> None:
    """The step by what is slow, beside the step without."""
    axes = canvas.subplots(1, 1)
    places = [found.places[number] for number in _shown(found)]
    names = ["none", *(place.place for place in places)]
    times = [found.step_time_s, *(place.step_time_s for place in places)]
    labels = [f"{found.step_time_s:.4g} s", *(f"{place.step_time_s:.4g} s, +{place.loss:.1%}" for place in places)]
    colours = [COLOURS[7], *(BAD if place.asked else GOOD for place in places)]
    bars(axes, names, times, labels, colours)
    axes.axvline(found.step_time_s, color="black", linestyle="--", linewidth=1)
    what = _SLOW.get(found.part, f"one {found.part}")
    axes.set(title=f"{what} {found.slow:g} times slower", xlabel="step time, s")


def _shown(found: Stragglers) -> list[int]:
    """All places, or a selection with the one asked for."""
    count = len(found.places)
    spread = {round(place * (count - 1) / (MOST_BARS - 1)) for place in range(MOST_BARS)} if count > 1 else {0}
    return sorted(spread | {number for number, place in enumerate(found.places) if place.asked})


def draw_redundancy(canvas: Canvas, found: Redundancy) -> None:
    """The expected step of every scheme, beside the step without stragglers."""
    axes = canvas.subplots(1, 1)
    times = [scheme.expected_step_s for scheme in found.schemes]
    labels = [f"{scheme.expected_step_s:.4g} s, {found.gain(scheme):+.1%}" for scheme in found.schemes]
    colours = [GOOD if found.gain(scheme) > 0 else COLOURS[7] for scheme in found.schemes]
    bars(axes, [scheme.name for scheme in found.schemes], times, labels, colours)
    axes.axvline(found.step_time_s, color="black", linestyle="--", linewidth=1)
    chance = f"{found.model.probability:.3g}"
    title = f"a device is {found.model.slow:g} times slower in a step with probability {chance}"
    axes.set(title=title, xlabel="expected step time, s (dashed: without stragglers)")
