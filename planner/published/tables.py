"""The summary as tables of text: what `display/` prints and the report holds, so that both say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...units import format_seconds
from .accuracy import Accuracy
from .comparison import Comparison
from .regret import Regret
from .summary import OutOfMemory, Summary

FARTHEST = 10
_REASONS = 15
_NONE = "-"
Cells = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Text cells; the first `words` columns are words, the others figures."""

    title: str
    head: Cells
    rows: tuple[Cells, ...]
    words: int = 1


def tables(rows: Sequence[Comparison], summary: Summary) -> tuple[Table, ...]:
    """All tables that hold anything, what matters most first."""
    complete = summary.complete_by_source
    every = (
        Table("step time", ("", *_ACCURACY), _overall(summary)),
        Table(
            "step time, by source",
            ("source", *_ACCURACY, "complete", "their mean"),
            _parts(summary.by_source, complete),
        ),
        Table("step time, by GPU", ("GPU", *_ACCURACY), _parts(summary.by_gpu)),
        Table("peak memory", ("source", "rows", "mean", "median", "bias", "within 5 %"), _memory(summary)),
        Table("out of memory", ("", "rows", "share"), _out_of_memory(summary.out_of_memory)),
        Table("regret of choosing by prediction", ("source", *_REGRET), _regret(summary)),
        Table("skipped: not modelled", ("reason", "rows"), _skipped(summary.skipped)),
        Table("the farthest complete rows", ("row", "source", "measured", "predicted", "error"), _farthest(rows), 2),
    )
    return tuple(table for table in every if table.rows)


def headline(summary: Summary) -> str:
    """The table in one sentence."""
    skipped, complete = sum(summary.skipped.values()), summary.complete
    judged = f"{summary.rows:,} rows: {summary.all.rows:,} step times judged, {skipped:,} rows skipped"
    judged += f", {summary.duplicates:,} that repeat or contradict others not counted" if summary.duplicates else ""
    if complete.mape is None:
        return f"{judged}; no row has a complete configuration and a measured step time"
    return f"{judged}; complete rows are off by {percent(complete.mape)} on average"


def percent(value: float | None, sign: bool = False) -> str:
    """A fraction as people read it."""
    return _NONE if value is None else f"{value:+.1%}" if sign else f"{value:.1%}"


_ACCURACY = ("rows", "mean", "median", "bias", "in interval")
_REGRET = ("groups", "mean", "median", "worst", "blind choice", "order (tau)", "of the best throughput")


def _accuracy(found: Accuracy) -> Cells:
    figures = (percent(found.mape), percent(found.median), percent(found.bias, sign=True), percent(found.coverage))
    return (f"{found.rows:,}", *figures)


def _overall(summary: Summary) -> tuple[Cells, ...]:
    return (("complete", *_accuracy(summary.complete)), ("all", *_accuracy(summary.all)))


def _parts(parts: Mapping[str, Accuracy], complete: Mapping[str, Accuracy] | None = None) -> tuple[Cells, ...]:
    """Most rows first; beside each, where asked for, the number and the mean of its complete rows."""
    ordered = sorted(parts.items(), key=lambda part: -part[1].rows)
    if complete is None:
        return tuple((name, *_accuracy(found)) for name, found in ordered)
    none = Accuracy(0)
    whole = [complete.get(name, none) for name, _ in ordered]
    beside = [(f"{found.rows:,}", percent(found.mape)) for found in whole]
    return tuple((name, *_accuracy(found), *extra) for (name, found), extra in zip(ordered, beside, strict=True))


def _memory(summary: Summary) -> tuple[Cells, ...]:
    if not summary.memory.rows:
        return ()
    by_source = sorted(summary.memory_by_source.items(), key=lambda part: -part[1].rows)
    return tuple(
        (name, f"{found.rows:,}", percent(found.mape), percent(found.median), percent(found.bias, sign=True),
         percent(found.within_5_percent))
        for name, found in (("all", summary.memory), *by_source)
    )  # fmt: skip


def _out_of_memory(found: OutOfMemory) -> tuple[Cells, ...]:
    rows = (
        ("published as out of memory, called fitting (must be 0)", found.called_fitting, found.published_oom),
        ("ran, called infeasible", found.ran_called_infeasible, found.ran),
        ("crashed or out of memory, called infeasible (not judged)",
         found.crashed_called_infeasible, found.crashed_or_oom),
    )  # fmt: skip
    return tuple((name, f"{part:,} of {whole:,}", percent(part / whole)) for name, part, whole in rows if whole)


def _regret(summary: Summary) -> tuple[Cells, ...]:
    if not summary.regret.groups:
        return ()
    by_source = sorted(summary.regret_by_source.items(), key=lambda part: -part[1].groups)
    return tuple((name, *_regret_cells(found)) for name, found in (("all", summary.regret), *by_source))


def _regret_cells(found: Regret) -> Cells:
    figures = (found.mean, found.median, found.worst, found.chance)
    tau = _NONE if found.kendall_tau is None else f"{found.kendall_tau:.2f}"
    return (f"{found.groups:,}", *map(percent, figures), tau, percent(found.throughput))


def _skipped(reasons: Mapping[str, int]) -> tuple[Cells, ...]:
    """The reasons of most rows; the JSON has all of them."""
    named = [(reason, f"{count:,}") for reason, count in list(reasons.items())[:_REASONS]]
    rest = list(reasons.values())[_REASONS:]
    return (*named, *([(f"{len(rest)} other reasons", f"{sum(rest):,}")] if rest else []))


def _farthest(rows: Sequence[Comparison]) -> tuple[Cells, ...]:
    judged = [row for row in rows if row.judged and row.complete and row.error is not None]
    ordered = sorted(judged, key=lambda row: -abs(row.error or 0.0))[:FARTHEST]
    return tuple(
        (row.row_id, row.source, format_seconds(row.measured_step_time_s or 0.0),
         format_seconds(row.predicted_step_time_s or 0.0), percent(row.error, sign=True))
        for row in ordered
    )  # fmt: skip
