"""Summary: what a table of comparisons says about the predictions.

Only rows that are judged count, except where their number itself is reported: a duplicate would count one measurement
twice, and a row that contradicts itself measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .accuracy import Accuracy, accuracy, by, step_time_accuracy
from .comparison import Comparison
from .regret import Choice, Regret, choices, regret

NEAR = 0.05
"""Peak memory is wanted this close; `within_5_percent` counts the rows that are."""


@dataclass(frozen=True, slots=True)
class MemoryAccuracy:
    """Of peak memory: the figures of Accuracy without an interval, and the share of rows within 5 %."""

    rows: int
    mape: float | None = None
    median: float | None = None
    bias: float | None = None
    within_5_percent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """Whether what ran is called fitting, and what did not is not. Rows that were skipped are outside of it.

    `crashed_or_oom` is a weak label (some of these crashes had other causes): it is reported, not judged.
    """

    published_oom: int
    called_fitting: int
    called_fitting_rows: tuple[str, ...]
    crashed_or_oom: int
    crashed_called_infeasible: int
    ran: int
    ran_called_infeasible: int
    ran_called_infeasible_rows: tuple[str, ...]

    @property
    def ran_called_infeasible_share(self) -> float | None:
        """Of the runs that fitted, how many are called infeasible."""
        return self.ran_called_infeasible / self.ran if self.ran else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`complete` is `all` over the rows whose configuration is published in full: promises are about these."""

    all: Accuracy
    complete: Accuracy
    by_source: Mapping[str, Accuracy]
    complete_by_source: Mapping[str, Accuracy]
    by_gpu: Mapping[str, Accuracy]
    memory: MemoryAccuracy
    memory_by_source: Mapping[str, MemoryAccuracy]
    out_of_memory: OutOfMemory
    regret: Regret
    regret_by_source: Mapping[str, Regret]
    choices: tuple[Choice, ...]
    skipped: Mapping[str, int]
    duplicates: int
    rows: int


def summarize(rows: Sequence[Comparison]) -> Summary:
    """Everything that is said about a table of runs."""
    judged = [row for row in rows if row.judged]
    timed = [row for row in judged if row.error is not None]
    sized = [row for row in judged if row.memory_error is not None]
    complete = [row for row in timed if row.complete]
    chosen = choices(judged)
    return Summary(
        all=step_time_accuracy(timed),
        complete=step_time_accuracy(complete),
        by_source=by(_source, timed, step_time_accuracy),
        complete_by_source=by(_source, complete, step_time_accuracy),
        by_gpu=by(lambda row: row.gpu, timed, step_time_accuracy),
        memory=memory_accuracy(sized),
        memory_by_source=by(_source, sized, memory_accuracy),
        out_of_memory=out_of_memory(judged),
        regret=regret(chosen),
        regret_by_source=_regret_by_source(chosen),
        choices=chosen,
        skipped=dict(Counter(row.reason for row in rows if row.status == "skipped").most_common()),
        duplicates=len(rows) - len(judged),
        rows=len(rows),
    )


def _source(row: Comparison) -> str:
    return row.source


def _regret_by_source(chosen: Sequence[Choice]) -> dict[str, Regret]:
    sources = dict.fromkeys(choice.source for choice in chosen)
    return {source: regret([choice for choice in chosen if choice.source == source]) for source in sources}


def memory_accuracy(rows: Sequence[Comparison]) -> MemoryAccuracy:
    """Of the peak memory of those rows that have both a measured and a predicted one."""
    errors = [row.memory_error for row in rows if row.memory_error is not None]
    found = accuracy(errors, (abs(error) <= NEAR for error in errors))
    return MemoryAccuracy(found.rows, found.mape, found.median, found.bias, found.coverage)


def out_of_memory(rows: Sequence[Comparison]) -> OutOfMemory:
    """Of the rows that were predicted at all."""
    known = [row for row in rows if row.status != "skipped"]
    oom, crashed, ran = ([row for row in known if row.outcome == name] for name in ("oom", "crashed_or_oom", "ran"))
    fitting = tuple(row.row_id for row in oom if row.status == "predicted")
    refused = tuple(row.row_id for row in ran if row.status == "infeasible")
    return OutOfMemory(
        published_oom=len(oom),
        called_fitting=len(fitting),
        called_fitting_rows=fitting,
        crashed_or_oom=len(crashed),
        crashed_called_infeasible=sum(row.status == "infeasible" for row in crashed),
        ran=len(ran),
        ran_called_infeasible=len(refused),
        ran_called_infeasible_rows=refused,
    )
