"""Pareto: one model on several clusters and numbers of devices, time against price.

For each cluster the best plan on every power of two of nodes and on all of them; optimal are those that no other beats
in both, step time and price of a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...clusters.part import first_devices, part_sizes
from ...errors import InfeasibleError, InputError, MeshwrightError
from ..contract import plan_json
from ..plan import Plan
from .choose import days, late_by, too_few
from .request import Progress, Request, check
from .search import find_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The fastest plan on a part of a cluster; None with the reason where there is none."""

    cluster: str
    devices: int
    plan: Plan | None
    price_per_million_tokens: float = 0.0  # US dollars
    reason: str = ""
    optimal: bool = False  # no other offer is faster and not dearer, or cheaper and not slower
    in_time: bool | None = None  # None without a deadline

    @property
    def step_time_s(self) -> float:
        return self.plan.predicted.step_time_s if self.plan else float("inf")

    def to_json(self) -> dict[str, Any]:
        """`plan` is the contract of `plan --json`; null where nothing fits."""
        return {
            "cluster": self.cluster,
            "devices": self.devices,
            "step_time_s": self.step_time_s if self.plan else None,
            "price_per_million_tokens": self.price_per_million_tokens if self.plan else None,
            "optimal": self.optimal,
            "in_time": self.in_time,
            "reason": self.reason,
            "plan": plan_json(self.plan) if self.plan else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pareto:
    """All offers, cluster by cluster, devices ascending; `chosen` is the cheapest that meets the deadline."""

    offers: tuple[Offer, ...]
    deadline_s: float | None = None

    @property
    def planned(self) -> tuple[Offer, ...]:
        return tuple(offer for offer in self.offers if offer.plan)

    @property
    def fastest(self) -> Offer:
        return min(self.planned, key=lambda offer: (offer.step_time_s, offer.price_per_million_tokens))

    @property
    def cheapest(self) -> Offer:
        return min(self.planned, key=lambda offer: (offer.price_per_million_tokens, offer.step_time_s))

    @property
    def chosen(self) -> Offer | None:
        """The cheapest that meets the deadline; None without one."""
        met = [offer for offer in self.planned if offer.in_time]
        return min(met, key=lambda offer: (offer.price_per_million_tokens, offer.step_time_s)) if met else None

    def to_json(self) -> dict[str, Any]:
        """`fastest`, `cheapest`, `chosen`: places in `points`."""
        chosen = self.chosen
        return {
            "points": [offer.to_json() for offer in self.offers],
            "fastest": self.offers.index(self.fastest),
            "cheapest": self.offers.index(self.cheapest),
            "chosen": self.offers.index(chosen) if chosen else None,
        }


def pareto(requests: Mapping[str, Request], progress: Progress = lambda done, total: None) -> Pareto:
    """One request for each cluster, by the name that it is shown under; all ask for the same training.

    `progress(done, total)` counts offers. Raises InputError where a request is wrong or a cluster has no price,
    InfeasibleError where nothing fits anywhere or nothing meets the deadline.
    """
    _check(list(requests.values()))
    parts = [(name, size) for name, request in requests.items() for size in part_sizes(request.cluster, 1)]
    offers, errors = [], list[MeshwrightError]()
    for done, (name, devices) in enumerate(parts):
        offers.append(_offer(name, requests[name], devices, errors))
        progress(done + 1, len(parts))
    found = Pareto(offers=marked(offers), deadline_s=next(iter(requests.values())).deadline_s)
    if not found.planned:
        raise errors[-1]
    if found.deadline_s is not None and found.chosen is None:
        raise _late(found, requests[found.fastest.cluster])
    return found


def _check(requests: Sequence[Request]) -> None:
    """What every request must say; prices are needed of all clusters."""
    problems = []
    for request in requests:
        try:
            check(replace(request, objective="cost"))
        except InputError as error:
            where = "" if error.source == "command line" else f"{error.source}: "
            problems += [replace(problem, field=f"{where}{problem.field}") for problem in error.problems]
    if problems:
        told = "--clusters compares prices, and needs that of every device, above 0"
        priceless = [
            replace(each, rule=told, fix="price_per_device_hour: 2.5") for each in problems if "price_" in each.field
        ]
        raise InputError("command line", dict.fromkeys(priceless or problems))


def _offer(name: str, request: Request, devices: int, errors: list[MeshwrightError]) -> Offer:
    """The fastest plan on so many devices; what keeps one from being goes to `errors` too."""
    part = replace(request, cluster=first_devices(request.cluster, devices), objective="time", deadline_s=None)
    whole = devices == request.cluster.num_devices
    if not whole and too_few(replace(request, deadline_s=None), request.setting(), devices):
        return Offer(cluster=name, devices=devices, plan=None, reason="too small for the parameters, however sharded")
    try:
        plan = find_plan(part)
    except (InfeasibleError, InputError) as error:
        errors.append(error)
        told = error.binding if isinstance(error, InfeasibleError) else "; ".join(map(str, error.problems))
        return Offer(cluster=name, devices=devices, plan=None, reason=told)
    price = plan.predicted.step_time_s * part.setting().dollars_per_s(devices)
    in_time = None if request.deadline_s is None else plan.judged_step_time_s <= request.step_limit_s
    each = 1e6 * price / request.job.tokens_per_step
    goal = plan.goal.model_copy(update={"deadline_s": request.deadline_s})
    kept = plan.model_copy(update={"goal": goal})
    return Offer(cluster=name, devices=devices, plan=kept, price_per_million_tokens=each, in_time=in_time)


def marked(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """Offers with those marked that no other beats."""
    places = [(offer.step_time_s, offer.price_per_million_tokens) for offer in offers if offer.plan]
    return tuple(replace(offer, optimal=offer.plan is not None and not _beaten(offer, places)) for offer in offers)


def _beaten(offer: Offer, places: Sequence[tuple[float, float]]) -> bool:
    time_s, price = offer.step_time_s, offer.price_per_million_tokens
    return any(t <= time_s and p <= price and (t, p) != (time_s, price) for t, p in places)


def _late(found: Pareto, request: Request) -> InfeasibleError:
    fastest = found.fastest
    step_s = fastest.plan.judged_step_time_s if fastest.plan else fastest.step_time_s
    run_s = (request.tokens or 0) / request.job.tokens_per_step * step_s
    binding = (
        f"no plan trains {request.tokens or 0:,} tokens in {days(found.deadline_s or 0.0)}: "
        f"the best takes {days(run_s)} with {fastest.devices} devices of {fastest.cluster}"
    )
    return InfeasibleError(binding, late_by(run_s))
