"""Predictions beside what was measured, as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ...schema import writing
from ..simulate.report import page, table
from .comparison import Comparison
from .picture import svg
from .summary import summarize
from .tables import headline, tables


def write_report(path: Path, rows: Sequence[Comparison], source: str) -> None:
    """Write the page; `source` names the file that the runs came from."""
    text = report(rows, source)
    with writing(path):
        path.write_text(text, encoding="utf-8")


def report(rows: Sequence[Comparison], source: str) -> str:
    """The page as text; everything that came from the file is escaped."""
    summary = summarize(rows)
    parts = [f"<p>{escape(headline(summary))}</p>", svg(rows)]
    for found in tables(rows, summary):
        parts += [f"<h2>{escape(found.title)}</h2>", table(found.rows, found.head)]
    fitting = summary.out_of_memory.called_fitting_rows
    if fitting:
        named = escape(", ".join(fitting))
        parts.append(f'<p class="bad">Called fitting, published as out of memory: {named}</p>')
    return page(f"Predicted against measured: {source}", "\n".join(parts))
