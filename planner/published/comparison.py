"""Comparison: one published run beside its prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["predicted", "infeasible", "skipped"]
Outcome = Literal["ran", "oom", "crashed_or_oom"]
"""What is published: a run, an out-of-memory failure, or (weak) a crash that may have been one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row of `simulate --against`. Where `status` is infeasible the step time is predicted all the same.

    `group` names what regret compares: runs of one source with the same model, machine, batch and sequence length.
    Memory in GB (1e9 bytes), as published.
    """

    row_id: str
    source: str
    gpu: str
    status: Status
    reason: str = ""
    outcome: Outcome = "ran"
    complete: bool = False
    judged: bool = True  # False: a duplicate of another row, or one that contradicts itself; reported, not counted
    assumptions: tuple[str, ...] = ()
    group: str = ""
    measured_step_time_s: float | None = None
    predicted_step_time_s: float | None = None
    interval_s: tuple[float, float] | None = None
    measured_peak_memory_gb: float | None = None
    predicted_peak_memory_gb: float | None = None

    @property
    def error(self) -> float | None:
        """Predicted / measured - 1."""
        if self.measured_step_time_s is None or self.predicted_step_time_s is None:
            return None
        return self.predicted_step_time_s / self.measured_step_time_s - 1

    @property
    def inside(self) -> bool | None:
        """Whether the measured step time lies in the interval."""
        if self.measured_step_time_s is None or self.interval_s is None:
            return None
        return self.interval_s[0] <= self.measured_step_time_s <= self.interval_s[1]

    @property
    def memory_error(self) -> float | None:
        """Predicted / measured peak memory - 1."""
        if self.measured_peak_memory_gb is None or self.predicted_peak_memory_gb is None:
            return None
        return self.predicted_peak_memory_gb / self.measured_peak_memory_gb - 1
