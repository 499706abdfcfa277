"""Predictions beside what was measured: every row of a file of published runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from ...errors import MeshwrightError
from ..cost.step import price
from ..plan import Prediction
from .case import Case, make_case
from .comparison import Comparison, Outcome
from .peak import published_peak_gb
from .row import Row, read_rows
from .shape import NotModelledError

CHUNK = 100  # rows that a worker takes at once

WIDER = 1.5
"""Factor on the distance of both ends of an interval from its prediction where a configuration had to be completed."""

_OUTCOMES: dict[str, Outcome] = {
    **dict.fromkeys(("oom", "out of memory", "yes", "true", "1"), "oom"),
    "crashed_or_oom": "crashed_or_oom",
    "would_not_fit_80gb": "crashed_or_oom",
}
"""A figure of a paper that would not fit was not tried: as weak a label as a crash."""


def compare(path: Path, workers: int | None, progress: Callable[[int, int], None]) -> tuple[Comparison, ...]:
    """Predict every row of `path`, in its order. Raises InputError with every problem of the file."""
    rows = read_rows(path)
    found: list[Comparison] = []
    for chunk in _chunks(rows, workers or os.cpu_count() or 1):
        found += chunk
        progress(len(found), len(rows))
    return tuple(_judged(rows, found))


def _chunks(rows: Sequence[Row], workers: int) -> Iterator[list[Comparison]]:
    chunks = [rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)]
    if workers == 1 or len(chunks) == 1:
        yield from map(_compare_all, chunks)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_compare_all, chunks)


def _compare_all(rows: Sequence[Row]) -> list[Comparison]:
    return [compare_row(row) for row in rows]


def compare_row(row: Row) -> Comparison:
    """One row beside its prediction."""
    blank = Comparison(
        row_id=row.row_id,
        source=row.source,
        gpu=row.gpu,
        status="skipped",
        outcome=_OUTCOMES.get(row.oom.lower(), "ran"),
        group=_group(row),
        measured_step_time_s=row.measured_step_time_s or None,  # of nothing there is no error
        measured_peak_memory_gb=row.peak_mem_gb or None,
    )
    try:
        case = make_case(row)
        return _predicted(blank, row, case, price(case.setting, case.configuration))
    except NotModelledError as error:
        return replace(blank, reason=f"not modelled: {error}")
    except (MeshwrightError, ValueError) as error:
        return replace(blank, reason=f"cannot be priced: {error}")


def _predicted(blank: Comparison, row: Row, case: Case, prediction: Prediction) -> Comparison:
    fits = prediction.fits
    peak, limit = prediction.fullest_bytes
    return replace(
        blank,
        status="predicted" if fits else "infeasible",
        reason="" if fits else f"needs {peak / 2**30:.1f} of {limit / 2**30:.1f} GiB",
        complete=case.complete,
        assumptions=case.assumptions,
        predicted_step_time_s=prediction.step_time_s,
        interval_s=_interval(prediction, case.complete),
        predicted_peak_memory_gb=published_peak_gb(row, prediction.memory),
    )


def _interval(prediction: Prediction, complete: bool) -> tuple[float, float]:
    low, high = prediction.step_time_interval_s
    if complete:
        return low, high
    middle = prediction.step_time_s
    return middle * (low / middle) ** WIDER, middle * (high / middle) ** WIDER


def _group(row: Row) -> str:
    """What regret compares: one source, model, machine, batch and sequence length."""
    parts = (row.source, row.model, row.kv_heads, row.gpu, row.gpus, row.gbs, row.seq_len, row.precision, row.framework)
    return " | ".join(str(part) for part in parts)


def _judged(rows: Sequence[Row], found: Sequence[Comparison]) -> Iterator[Comparison]:
    """Once for each group of repeated rows, and never where a row contradicts itself."""
    seen: set[str] = set()
    for row, comparison in zip(rows, found, strict=True):
        repeated = bool(row.dup_group) and row.dup_group in seen
        seen.add(row.dup_group)
        yield replace(comparison, judged=not repeated and row.consistent != "no")
