"""Goal: what the best plan has least of, within which limits, and what a whole run then takes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..schema import Frozen

Objective = Literal["time", "cost", "devices", "energy"]

UNITS: dict[Objective, str] = {"time": "s", "cost": "USD", "devices": "devices", "energy": "J"}
"""What each objective counts: of one step, but for the devices."""

SECONDS_PER_DAY = 86_400


class Goal(Frozen):
    """What a plan was asked to be best at."""

    objective: Objective = "time"
    tokens: int | None = Field(default=None, ge=1, description="of the whole run")
    deadline_s: float | None = Field(default=None, gt=0, description="for the whole run")
    risk: float | None = Field(default=None, gt=0, lt=1, description="probability that the figures judged on hold")


class AtRisk(Frozen):
    """What a plan chosen against its intervals holds to."""

    probability: float
    step_time_s: float  # not exceeded with the probability
    memory_share: float  # of each device, planned for at most


class Training(Frozen):
    """The whole run, without failures."""

    tokens: int
    days: float
    days_at_risk: float | None = None  # not exceeded with the probability that was asked for
    price: float | None = None  # US dollars; None where the cluster file has none
    kwh: float | None = None  # None where the cluster file has no power of a device
