"""Request: what a search is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...clusters.schema import Cluster
from ...errors import InputError, Problem
from ..explain import Objective
from ..frameworks.framework import DEFAULT
from ..job import Job
from ..pins import Pins
from ..plan import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked: a plan for a model, a cluster and a job."""

    model: ModelSpec
    cluster: Cluster
    job: Job
    pins: Pins = field(default_factory=Pins)
    objective: Objective = "time"
    gap: float = 0.01
    top: int = 3  # runners-up
    runnable: bool = False  # only what the built-in runtime can execute
    framework: str = DEFAULT  # what the step is priced as


def check(request: Request) -> None:
    """Raises InputError where the search is asked for what cannot be."""
    found = []
    if not 0 <= request.gap < 1:  # not-a-number is not
        found.append(Problem("--gap", request.gap, "must be at least 0 and below 1", "--gap 0.01"))
    if request.top < 0:
        found.append(Problem("--top", request.top, "must be 0 or more", "--top 0"))
    if found:
        raise InputError("command line", found)
