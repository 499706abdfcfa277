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
        self._warming: deque[Table] = deque(maxlen=WARM_UP_STEPS)  # of the first steps, which say nothing of the rest
        self._tables: deque[Table] = deque(maxlen=KEPT)
        self._newest: Table | None = None
        self._reported = True  # the newest sample, or there is none
        self._awaited = False  # how long its step took
        self._sampled_s = 0.0  # of the newest sample once warm: how long its step took
        self._warning: dict[str, Any] | None = None

    def sampled(self, table: Table) -> None:
        """What all ranks spent the step on that `step` tells next."""
        is_warm = self._steps >= WARM_UP_STEPS
        (self._tables if is_warm else self._warming).append(table)
        self._newest, self._reported, self._awaited = table, False, is_warm

    def step(self, time_s: float, last: bool) -> dict[str, Any] | None:
        """The warning, if it is due after this step: once a launch, and only with a sample of a slow step to say why,
        unless this is the last step."""
        self._steps += 1
        if self._steps > WARM_UP_STEPS:
            self._recent.append(time_s)
        if self._awaited:
            self._sampled_s, self._awaited = time_s, False
        if self._warning is not None or not self._is_slow or not (self._explains or last):
            return None
        self._warning = self._made()
        return dict(self._warning)

    @property
    def _is_slow(self) -> bool:
        """Whether the median of recent steps lies above the interval."""
        return len(self._recent) == RECENT and middle(self._recent) > self._high_s

    @property
    def _explains(self) -> bool:
        """Whether the newest sample is of a slow step: one from before says what was well."""
        return self._sampled_s > self._high_s

    @property
    def _high_s(self) -> float:
        return self._plan.predicted.step_time_interval_s[1]

    def _made(self) -> dict[str, Any]:
        predicted, now_s = self._plan.predicted, middle(self._recent)
        low, high = map(format_seconds, predicted.step_time_interval_s)
        planned = f"planned {format_seconds(predicted.step_time_s)} ({low} to {high})"
        message = f"slower than planned: a step takes {format_seconds(now_s)}, {planned}"
        found: dict[str, Any] = {"step_time_s": now_s, "predicted_step_time_s": predicted.step_time_s}
        if self._explains:
            why = verdict(self._plan, self._tables[-1])
            message, found = f"{message}; {why.words}", found | why.details()
        return {"message": message, **found}

    def newest(self) -> dict[str, Any]:
        """The sample for the next logged step, if there is a new one."""
        if self._reported or self._newest is None:
            return {}
        self._reported = True
        return {"components_s": measured_parts(self._newest), "slowest_rank": slowest(self._newest)}

    def result(self) -> dict[str, Any]:
        """For result.json: means over the samples (of warm steps where there are any, as of the step time), the plan's
        own beside them, and what was warned of."""
        parts = [measured_parts(table) for table in self._tables or self._warming]
        means = {part: fmean(each[part] for each in parts) for part in PARTS} if parts else None
        both = {"measured": means, "predicted": predicted_parts(self._plan)} if means else None
        return {"components_s": both, "warnings": [] if self._warning is None else [self._warning["message"]]}
