"""The picture of energy: what draws it in a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cost.energy import JOULES_PER_KWH
from .chart import COLOURS, bars
from .energy import Bill, format_energy

if TYPE_CHECKING:
    from .chart import Canvas


def draw_energy(canvas: Canvas, bill: Bill) -> None:
    """Kilowatt hours of a step by part."""
    axes = canvas.subplots(1, 1)
    parts, total = bill.energy.parts(), bill.energy.step_j
    labels = [f"{format_energy(part)}, {part / total:.1%}" for part in parts.values()]
    bars(axes, list(parts), [part / JOULES_PER_KWH for part in parts.values()], labels, list(COLOURS[: len(parts)]))
    title = f"energy of a step: {format_energy(total)}, {bill.power_w / 1e3:,.1f} kW on average"
    axes.set(title=title, xlabel="kWh")
