"""The picture of one step's assignment: which ranks form groups in each round, and how long they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...units import format_seconds
from ..lengths.expected import Step
from .chart import COLOURS, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_assignment(axes: Axes, step: Step) -> None:
    """Ranks of data and context parallelism over time: a bar a group, in the colour of its degree; white is idle."""
    assignment, degrees = step.solution.assignment, step.instance.degrees
    start, named = 0.0, set()
    for number, each in enumerate(assignment.rounds):
        for group in each.groups:
            colour = COLOURS[degrees.index(group.degree) % len(COLOURS)]
            label = None if group.degree in named else f"groups of {group.degree}"
            named.add(group.degree)
            lane = group.first - 0.5, group.degree
            style: dict[str, Any] = {"color": colour, "edgecolor": "white", "linewidth": 0.3}
            axes.broken_barh([(start, group.seconds)], lane, label=label, **style)
        start += each.seconds
        if number + 1 < len(assignment.rounds):
            axes.axvline(start, color="black", linewidth=0.6)
    rounds = f"{len(assignment.rounds)} round{'' if len(assignment.rounds) == 1 else 's'}"
    title = f"a step of {step.instance.count} sequences: {rounds}, {format_seconds(start)}, ranks work {step.busy:.1%}"
    axes.set(title=title, xlabel="seconds", ylabel="rank of dp x cp", xlim=(0, start))
    axes.set_ylim(step.instance.lanes - 0.5, -0.5)
    legend(axes)
