"""Watching: steps beside the plan while they go on. Warns once when they are much slower than planned, and says why."""

from __future__ import annotations

from collections import deque
from statistics import fmean
from statistics import median as middle
from typing import Any

from ..planner.plan import Plan
from ..units import format_seconds
from .metrics import WARM_UP_STEPS
from .sampling import Table
from .verdict import PARTS, measured_parts, predicted_parts, slowest, verdict

RECENT = 10
"""Steps whose median is held against the interval of the prediction."""

KEPT = 100
"""Samples that the result is a mean of."""


class Watching:
    """Of rank 0: all step times and samples of one launch pass through here."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._steps = 0
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._tables: deque[Table] = deque(maxlen=KEPT)
        self._reported = True  # the newest sample, or there is none
        self._warning: dict[str, Any] | None = None

    def sampled(self, table: Table) -> None:
        """What all ranks spent a step on."""
        self._tables.append(table)
        self._reported = False

    def step(self, time_s: float, last: bool) -> dict[str, Any] | None:
        """The warning, if it is due after this step: once a launch, and only with a sample to say why, unless this is
        the last step."""
        self._steps += 1
        if self._steps > WARM_UP_STEPS:
            self._recent.append(time_s)
        if self._warning is not None or not self._is_slow or not (self._tables or last):
            return None
        self._warning = self._made()
        return dict(self._warning)

    @property
    def _is_slow(self) -> bool:
        """Whether the median of recent steps lies above the interval."""
        high = self._plan.predicted.step_time_interval_s[1]
        return len(self._recent) == RECENT and middle(self._recent) > high

    def _made(self) -> dict[str, Any]:
        predicted, now_s = self._plan.predicted, middle(self._recent)
        low, high = map(format_seconds, predicted.step_time_interval_s)
        planned = f"planned {format_seconds(predicted.step_time_s)} ({low} to {high})"
        message = f"slower than planned: a step takes {format_seconds(now_s)}, {planned}"
        found: dict[str, Any] = {"step_time_s": now_s, "predicted_step_time_s": predicted.step_time_s}
        if self._tables:
            why = verdict(self._plan, self._tables[-1])
            message, found = f"{message}; {why.words}", found | why.details()
        return {"message": message, **found}

    def newest(self) -> dict[str, Any]:
        """The sample for the next logged step, if there is a new one."""
        if self._reported:
            return {}
        self._reported, table = True, self._tables[-1]
        return {"components_s": measured_parts(table), "slowest_rank": slowest(table)}

    def result(self) -> dict[str, Any]:
        """For result.json: means over the samples, the plan's own beside them, and what was warned of."""
        parts = [measured_parts(table) for table in self._tables]
        means = {part: fmean(each[part] for each in parts) for part in PARTS} if parts else None
        both = {"measured": means, "predicted": predicted_parts(self._plan)} if means else None
        return {"components_s": both, "warnings": [] if self._warning is None else [self._warning["message"]]}
