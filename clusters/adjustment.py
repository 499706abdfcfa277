"""Adjustment: what training runs taught about a cluster beyond what was measured or read from datasheets.

A few physical factors, found by `planner/fitting/` from the step times of runs, and the evidence for them. Every factor
at its default changes no price. `planner/cost/adjusted.py` applies them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ..schema import Frozen
from ..units import parse_seconds

Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0)]


class LinkScale(Frozen):
    """Of one class of links, over what the file says of them."""

    latency: float = Field(default=1.0, gt=0, description="factor on the latency")
    bandwidth: float = Field(default=1.0, gt=0, description="factor on the bandwidth")

    @property
    def is_idle(self) -> bool:
        """Whether it changes nothing."""
        return self.latency == self.bandwidth == 1.0


class Evidence(Frozen):
    """What an adjustment rests on. Errors are medians of |predicted / measured - 1| over runs that were held out."""

    rows: int = Field(ge=1, description="runs that were used")
    configurations: int = Field(ge=1, description="different ones among them")
    error_before: float = Field(ge=0)
    error_after: float = Field(ge=0)


class Adjustment(Frozen):
    """Factors of a cluster under one framework; none of them is ever set where held-out runs do not ask for it."""

    origin: Literal["calibrated"] = "calibrated"
    source: str = Field(description="the runs that it was fitted on")
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="year-month-day")
    framework: str = Field(default="meshwright", description="whose runs these were; it counts for no other")
    compute: float = Field(default=1.0, gt=0, description="sustained rate of compute over the priced one")
    layer_s: Seconds = Field(default=0.0, alias="layer", description="of a layer and microbatch, both directions")
    step_s: Seconds = Field(default=0.0, alias="step", description="of a step")
    fabric: LinkScale = LinkScale()
    network: LinkScale = LinkScale()
    overlap: float = Field(default=1.0, gt=0, description="rate of compute beside a collective, over the priced")
    evidence: Evidence | None = None

    @property
    def moved(self) -> dict[str, float]:
        """The factors that are not at their defaults, by the names that the file has."""
        links = ((f"{kind}.{of}", kind, of) for kind in ("fabric", "network") for of in ("latency", "bandwidth"))
        found = {"compute": self.compute, "layer": self.layer_s, "step": self.step_s}
        found |= {name: getattr(getattr(self, kind), of) for name, kind, of in links}
        found["overlap"] = self.overlap
        return {name: value for name, value in found.items() if value != (0.0 if name in ("layer", "step") else 1.0)}
