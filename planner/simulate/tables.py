"""Sweeps and scaling curves as rows of text: the same cells on a terminal and in a report."""

from __future__ import annotations

from ...units import format_bytes, format_count, format_seconds
from .scaling import Scaling
from .simulation import Simulation
from .sweep import Sweep

Cells = tuple[str, ...]
NOTE = "note"
"""Head of the last column: why a row cannot run."""


def table_of_sweep(sweep: Sweep) -> tuple[list[Cells], Cells]:
    """Rows and head: one row a value."""
    simulations = [row.simulation for row in sweep.rows]
    head = ("value", *_head(simulations), NOTE)
    rows = [(row.value, *_cells(row.simulation, simulations), _note(row.reason)) for row in sweep.rows]
    return rows, head


def table_of_scaling(scaling: Scaling) -> tuple[list[Cells], Cells]:
    """Rows and head: one row a number of devices."""
    simulations = [point.simulation for point in scaling.points]
    head = ("devices", "batch", "efficiency", *_head(simulations), NOTE)
    rows = []
    for point in scaling.points:
        share, one = scaling.efficiency(point), point.simulation
        batch = f"{one.scenario.job.global_batch:,}" if one else "-"
        size = (f"{point.devices:,}", batch, _number(share, ".1%"))
        rows.append((*size, *_cells(one, simulations), _note(point.reason)))
    return rows, head


def _note(reason: str) -> str:
    """Short where the column of the memory says the rest."""
    return "does not fit" if reason.startswith("stage ") else reason


def _head(simulations: list[Simulation | None]) -> Cells:
    """Columns of a simulation; days and money of a run only where tokens were given."""
    run = ("days", "price") if _has_run(simulations) else ("$/M tokens", "kWh/M tokens")
    return ("step", "tokens/s", "per device", "MFU", "memory", *run)


def _has_run(simulations: list[Simulation | None]) -> bool:
    return any(one.days is not None for one in simulations if one)


def _cells(one: Simulation | None, simulations: list[Simulation | None]) -> Cells:
    if one is None:
        return ("-",) * len(_head(simulations))
    predicted = one.prediction
    return (
        format_seconds(one.step_time_s),
        f"{one.tokens_per_s:,.0f}",
        f"{predicted.tokens_per_s_per_device:,.0f}",
        f"{predicted.mfu:.1%}",
        format_bytes(max(predicted.peak_memory_bytes)),
        *(_run(one) if _has_run(simulations) else _per_million(one)),
    )


def _run(one: Simulation) -> Cells:
    return _number(one.days, ",.1f"), "-" if one.price is None else f"${format_count(one.price)}"


def _per_million(one: Simulation) -> Cells:
    bill = one.bill()
    return _number(one.price_per_million_tokens, ".4f"), _number(bill.kwh_per_million_tokens if bill else None, ".4f")


def _number(value: float | None, spec: str, unit: str = "") -> str:
    return "-" if value is None else f"{unit}{value:{spec}}"
