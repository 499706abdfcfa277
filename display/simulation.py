"""A simulation as people read it: speed, memory, money, failures; a sweep as one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..planner.explain import describe
from ..planner.explain_mapping import order_words
from ..planner.plan import Breakdown
from ..planner.simulate.redundancy import Redundancy
from ..planner.simulate.report import outcome_rows
from ..planner.simulate.request import Answer
from ..planner.simulate.scaling import Scaling
from ..planner.simulate.simulation import Simulation
from ..planner.simulate.stragglers import Stragglers
from ..planner.simulate.sweep import Sweep
from ..planner.simulate.tables import NOTE, Cells, table_of_scaling, table_of_sweep
from ..units import format_seconds
from .plan import memory_table

LONGEST_NOTE = 16


def show(console: Console, answer: Answer) -> None:
    """The whole answer of `meshwright simulate`: sweep and scaling where they were asked, else the one simulation; then
    what else was asked of the plan itself."""
    if answer.sweep:
        show_sweep(console, answer.sweep)
    if answer.scaling:
        show_scaling(console, answer.scaling)
    if not (answer.sweep or answer.scaling):
        _show_one(console, answer.simulation)
    if answer.failures:
        console.print(_rows("failures", answer.failures.rows()))
    if answer.straggler:
        show_straggler(console, answer.straggler)
    if answer.energy:
        console.print(_rows("energy", answer.energy.rows()))


def _show_one(console: Console, simulation: Simulation) -> None:
    scenario = simulation.scenario
    text = Text(f"{scenario.model.name} on {scenario.cluster.name}", style="bold")
    mesh, job = describe(scenario.configuration.mesh), scenario.job
    text.append(f": {mesh}, {job.global_batch} x {job.seq_len} tokens a step", style="not bold")
    console.print(text)
    if scenario.rank_map:
        console.print(Text(f"ranks run on {order_words(scenario.cluster, scenario.rank_map)}"))
    if simulation.settings:
        console.print(Text(f"with {', '.join(simulation.settings)}", style="dim"))
    console.print(_rows(f"predicted ({simulation.prediction.origin})", outcome_rows(simulation)))
    console.print(breakdown_table(simulation.prediction.breakdown_s))
    console.print(memory_table(simulation.prediction))
    if simulation.shortage:
        console.print(Text(f"does not fit: {simulation.shortage}", style="bold red"))


def _rows(title: str, rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table


def breakdown_table(breakdown: Breakdown) -> Table:
    """Where the step's time goes, with a bar."""
    table = Table(title="where the time goes (exposed)", title_justify="left", show_header=False)
    for name, seconds in sorted(dict(breakdown).items(), key=lambda item: -item[1]):
        if seconds > 0:
            share = seconds / breakdown.total
            table.add_row(name, format_seconds(seconds), f"{share:.1%}", "█" * round(40 * share))
    return table


def show_sweep(console: Console, sweep: Sweep) -> None:
    """One row a value; a bar shows tokens per second, what cannot run keeps its reason."""
    rows, head = table_of_sweep(sweep)
    best = max((row.simulation.tokens_per_s for row in sweep.runnable if row.simulation), default=1.0)
    speeds = [row.simulation.tokens_per_s if row.simulation and not row.reason else 0.0 for row in sweep.rows]
    bars = ["█" * round(10 * speed / best) for speed in speeds]
    shown = [(*cells[:-1], cells[-1] or bar) for cells, bar in zip(rows, bars, strict=True)]
    _print_curve(console, f"sweep of {sweep.field}", shown, head)


def show_scaling(console: Console, scaling: Scaling) -> None:
    """One row a number of devices."""
    title = f"{scaling.kind} scaling, efficiency against {scaling.base.devices:,} devices"
    _print_curve(console, title, *table_of_scaling(scaling))


def show_straggler(console: Console, straggler: Stragglers | Redundancy) -> None:
    """One row a place that may be slow, or a scheme against it."""
    rows, head = straggler.table()
    table = Table(title="stragglers", title_justify="left", header_style="bold")
    for name in head:
        table.add_column(name)
    for cells in rows:
        table.add_row(*map(Text, cells))
    console.print(table)
    if isinstance(straggler, Redundancy):
        console.print(Text(straggler.summary, style="dim"))


def _print_curve(console: Console, title: str, rows: Sequence[Cells], head: Cells) -> None:
    """Rows whose last cell is a bar, or the reason why they cannot run: long ones stand below the table."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in head:
        table.add_column("" if name == NOTE else name)
    below = []
    for *cells, note in rows:
        if len(note) > LONGEST_NOTE:
            below.append(Text(f"{cells[0]}: {note}", style="dim"))
            note = "illegal"
        table.add_row(*map(Text, (*cells, note)), style="dim" if note.strip("█") else None)
    console.print(table)
    for line in below:
        console.print(line)
