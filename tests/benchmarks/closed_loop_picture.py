"""Predicted beside measured, a point a plan; the band is the bar of 10 %."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a picture of the plans of a closed loop."""
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    for kind in dict.fromkeys(map(_kind, rows)):
        own = [row for row in rows if _kind(row) == kind]
        x, y = ([1e3 * row[name] for row in own] for name in ("measured_s", "predicted_s"))
        axes.scatter(x, y, 14, label=kind)
    ends = [1e3 * pick(row[name] for row in rows for name in ("measured_s", "predicted_s")) for pick in (min, max)]
    axes.plot(ends, ends, color="grey", linewidth=0.8)
    axes.fill_between(ends, [0.9 * end for end in ends], [1.1 * end for end in ends], color="grey", alpha=0.15)
    axes.set(xscale="log", yscale="log", xlabel="measured, ms a step", ylabel="predicted, ms a step")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _kind(row: dict[str, Any]) -> str:
    """The axes of a plan's mesh."""
    return " ".join(part for part in row["plan"].split() if part[:2] in ("pp", "dp", "cp", "tp") and part[2:].isdigit())
