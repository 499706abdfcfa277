"""Predictions beside what was measured, as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..planner.published import tables as text
from ..planner.published.comparison import Comparison
from ..planner.published.summary import summarize


def show_against(console: Console, rows: Sequence[Comparison]) -> None:
    """The whole answer of `meshwright simulate --against`."""
    summary = summarize(rows)
    console.print(Text(text.headline(summary), style="bold"))
    for table in text.tables(rows, summary):
        console.print(_table(table))
    fitting = summary.out_of_memory.called_fitting_rows
    if fitting:
        console.print(Text(f"called fitting, published as out of memory: {', '.join(fitting)}", style="bold red"))


def _table(table: text.Table) -> Table:
    shown = Table(title=table.title, title_justify="left", header_style="bold")
    for place, name in enumerate(table.head):
        words = place < table.words
        shown.add_column(Text(name), justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown
