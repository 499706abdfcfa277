"""The JSON that `simulate --against --json` prints. Keys are only ever added; errors and shares are fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .comparison import Comparison
from .regret import Choice
from .summary import OutOfMemory, Summary, summarize

Json = dict[str, Any]


def against_json(rows: Sequence[Comparison]) -> Json:
    """Every row in the order of the file, and the summary."""
    return {"rows": [row_json(row) for row in rows], "summary": summary_json(summarize(rows))}


def row_json(row: Comparison) -> Json:
    """Times in seconds, memory in GB (1e9 bytes), errors as fractions; null where there is no such figure."""
    names = ("row_id", "source", "gpu", "status", "reason", "outcome", "complete", "judged", "group")
    return {
        **{name: getattr(row, name) for name in names},
        "assumptions": list(row.assumptions),
        "measured_step_time_s": row.measured_step_time_s,
        "predicted_step_time_s": row.predicted_step_time_s,
        "interval_s": list(row.interval_s) if row.interval_s else None,
        "error": row.error,
        "measured_peak_memory_gb": row.measured_peak_memory_gb,
        "predicted_peak_memory_gb": row.predicted_peak_memory_gb,
        "memory_error": row.memory_error,
    }


def summary_json(summary: Summary) -> Json:
    """The figures of the summary, each kind beside its parts by source."""
    return {
        "all": asdict(summary.all),
        "complete": asdict(summary.complete) | {"by_source": _each(summary.complete_by_source)},
        "by_source": _each(summary.by_source),
        "by_gpu": _each(summary.by_gpu),
        "memory": asdict(summary.memory) | {"by_source": _each(summary.memory_by_source)},
        "out_of_memory": _out_of_memory(summary.out_of_memory),
        "regret": asdict(summary.regret)
        | {"by_source": _each(summary.regret_by_source), "choices": [_choice(choice) for choice in summary.choices]},
        "skipped": dict(summary.skipped),
        "duplicates": summary.duplicates,
        "rows": summary.rows,
    }


def _each(parts: Any) -> Json:
    return {name: asdict(part) for name, part in parts.items()}


def _choice(choice: Choice) -> Json:
    return asdict(choice) | {"throughput": choice.throughput}


def _out_of_memory(found: OutOfMemory) -> Json:
    return asdict(found) | {"ran_called_infeasible_share": found.ran_called_infeasible_share}
