"""Clusters compared, as people read it: one row for each number of devices."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..planner.explain import describe
from ..planner.search.pareto import Offer, Pareto
from ..units import format_count, format_seconds
from .plan import dollars


def show_pareto(console: Console, found: Pareto) -> None:
    """The whole answer of `meshwright plan --clusters`."""
    plan = found.fastest.plan
    if plan is None:
        return
    job, tokens = plan.job, plan.goal.tokens
    text = Text(f"{plan.model.name}: time against price", style="bold")
    text.append(f", {job.global_batch} x {job.seq_len} tokens a step, {job.precision}, {job.stepped}", style="not bold")
    console.print(text)
    console.print(_table(found, tokens))
    for offer in found.offers:
        if not offer.plan:
            console.print(Text(f"{offer.cluster}, {offer.devices} devices: {offer.reason}", style="dim"))
    console.print(Text(f"fastest: {_named(found.fastest)}; cheapest: {_named(found.cheapest)}"))
    if found.chosen and found.deadline_s is not None:
        console.print(Text(f"cheapest within {format_seconds(found.deadline_s)}: {_named(found.chosen)}", style="bold"))


def _table(found: Pareto, tokens: int | None) -> Table:
    table = Table(title="* no other is faster and cheaper", title_justify="left", header_style="bold")
    run = () if tokens is None else (f"{format_count(tokens)} tokens", "price")
    late = () if found.deadline_s is None else ("in time",)
    for name in ("cluster", "devices", "mesh", "step", "MFU", "$/M tokens", *run, *late, "*"):
        table.add_column(name, justify="left" if name in ("cluster", "mesh") else "right")
    for offer in found.planned:
        table.add_row(*map(Text, _cells(offer)), style="bold" if offer is found.chosen else None)
    return table


def _cells(offer: Offer) -> list[str]:
    plan = offer.plan
    if plan is None:
        return []
    cells = [offer.cluster, f"{offer.devices:,}", describe(plan.mesh), format_seconds(offer.step_time_s)]
    cells += [f"{plan.predicted.mfu:.1%}", f"{offer.price_per_million_tokens:.3g}"]
    if plan.training:
        cells += [f"{plan.training.days:,.1f} d", dollars(plan.training.price or 0.0)]
    if offer.in_time is not None:
        cells.append("yes" if offer.in_time else "no")
    return [*cells, "*" if offer.optimal else ""]


def _named(offer: Offer) -> str:
    return f"{offer.devices:,} devices of {offer.cluster}"
