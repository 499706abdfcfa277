"""Request: what a search is asked, and what cannot be asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...clusters.schema import Cluster
from ...errors import InputError, Problem
from ..cost.risk import GREATEST, LEAST, Risk
from ..cost.setting import Setting, VisitsOf
from ..families import architecture
from ..frameworks.framework import DEFAULT, framework
from ..goal import Goal, Objective
from ..job import Job
from ..pins import Pins
from ..plan import ModelSpec
from .objective import Measure
from .resources import MEMORY
from .visits import sampled_visits

if TYPE_CHECKING:
    from ..experts.routing import Routing

Progress = Callable[[int, int], None]
"""Is told how much is done, and of how much."""


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
    tokens: int | None = None  # of the whole run
    deadline_s: float | None = None  # for the whole run, without failures
    risk: float | None = None  # probability with which step time and memory hold
    rank_map: tuple[int, ...] = ()  # the device of each rank; (): to be found
    routing: Routing | None = None  # of the model's experts; None: taken as balanced
    visits: VisitsOf | None = None  # what it says of the plan that was chosen
    shuffle_tokens: bool = False  # over tp ranks, by what their ids say of the routing

    @property
    def goal(self) -> Goal:
        return Goal(objective=self.objective, tokens=self.tokens, deadline_s=self.deadline_s, risk=self.risk)

    @property
    def step_limit_s(self) -> float:
        """The longest step that meets the deadline."""
        if self.deadline_s is None or self.tokens is None:
            return math.inf
        return self.deadline_s * self.job.tokens_per_step / self.tokens

    @property
    def at_risk(self) -> Risk | None:
        return None if self.risk is None else Risk(self.risk)

    def setting(self, whole: bool = False) -> Setting:
        """What configurations are priced in; where devices cost something, some may stay idle. Devices have the memory
        that is planned for, or with `whole` all of theirs."""
        risk = None if whole else self.at_risk
        return Setting(
            architecture(self.model),
            MEMORY.better(self.cluster, risk.memory_share) if risk else self.cluster,
            self.job,
            every_device=self.objective not in ("cost", "energy"),
            framework=framework(self.framework),
            rank_map=self.rank_map,
            routing=self.visits or (None if self.routing is None else sampled_visits(self.routing)),
        )

    def measure(self, setting: Setting) -> Measure:
        """What is minimised."""
        return Measure(setting, self.objective, self.step_limit_s, self.at_risk)


def check(request: Request) -> None:
    """Raises InputError where the search is asked for what cannot be."""
    found = [*_options(request), *_run(request)]
    if found:
        raise InputError("command line", found)
    if lacking := list(_lacking(request)):
        raise InputError(request.cluster.name, lacking)


def _options(request: Request) -> Iterator[Problem]:
    if not 0 <= request.gap < 1:  # not-a-number is not
        yield Problem("--gap", request.gap, "must be at least 0 and below 1", "--gap 0.01")
    if request.top < 0:
        yield Problem("--top", request.top, "must be 0 or more", "--top 0")
    if request.routing is not None and not framework(request.framework).experts.planned:
        rule = f"{request.framework} is priced as its measured runs were, whatever their routing"
        yield Problem("--routing", request.routing.source, rule, "without --framework")
    if request.shuffle_tokens and (request.routing is None or request.routing.fit.token is None):
        rule, fix = "needs a trace of routing with the ids of its tokens", "--routing trace.npz with an array `token`"
        yield Problem("--shuffle-tokens", None, rule, fix)
    elif request.shuffle_tokens and request.routing is not None:
        yield from _foreign_ids(request, request.routing)
    if request.routing is not None and request.job.lengths is not None:
        rule = "experts are placed for sequences of one length"
        yield Problem("--routing", request.routing.source, rule, "without --lengths")
    if request.risk is not None and not LEAST <= request.risk <= GREATEST:
        rule = f"must be a probability from {LEAST:g} to {GREATEST:g}: beyond, too few runs were measured"
        yield Problem("--risk", request.risk, rule, "--risk 0.9")


def _foreign_ids(request: Request, routing: Routing) -> Iterator[Problem]:
    """Ids of another tokenizer."""
    vocab, ids = architecture(request.model).vocab, (routing.fit.token, routing.held.token)
    largest = max(int(each.max()) for each in ids if each is not None)
    if largest >= vocab:
        rule = f"the trace has token {largest}, and {request.model.name} {vocab:,} tokens"
        yield Problem("--routing", routing.source, rule, "a trace of its own tokens, or without --shuffle-tokens")


def _run(request: Request) -> Iterator[Problem]:
    tokens, deadline_s = request.tokens, request.deadline_s
    if tokens is not None and tokens < 1:
        yield Problem("--tokens", tokens, "must be above 0", "--tokens 15T")
    if deadline_s is not None and deadline_s <= 0:
        yield Problem("--deadline", deadline_s, "must be above 0", "--deadline 30d")
    if deadline_s is not None and tokens is None:
        yield Problem("--deadline", f"{deadline_s:g} s", "needs the tokens of the whole run", "--tokens 15T")


def _lacking(request: Request) -> Iterator[Problem]:
    """What the cluster file must say for an objective."""
    name = request.objective
    for place, group in enumerate(request.cluster.node_groups):
        at, device = f"node_groups[{place}]", group.device
        if name == "cost" and not group.price_per_device_hour:  # of what costs nothing no plan is the cheapest
            rule, price = "--objective cost needs the price of every device, above 0", group.price_per_device_hour
            yield Problem(f"{at}.price_per_device_hour", price, rule, "price_per_device_hour: 2.5, or --objective time")
        if name == "energy" and device.power_w is None:
            rule = "--objective energy needs the power of every device"
            yield Problem(f"{at}.device.power_w", None, rule, "power_w: 700, or --objective time")
        if name == "energy" and (device.idle_power_w or 0.0) > (device.power_w or math.inf):
            rule = f"must be no more than power_w = {device.power_w:g}"
            yield Problem(f"{at}.device.idle_power_w", device.idle_power_w, rule, f"idle_power_w: {device.power_w:g}")
        if name == "energy" and (group.host.idle_power_w or 0.0) > (group.host.power_w or math.inf):
            rule = f"must be no more than power_w = {group.host.power_w:g}"
            yield Problem(f"{at}.host.idle_power_w", group.host.idle_power_w, rule, f"{group.host.power_w:g}")
