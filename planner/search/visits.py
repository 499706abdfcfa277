"""Visits: what a search and a plan's price take from a trace of routing.

What reads traces is imported where there is one: it needs numpy, which takes a while.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...clusters.paths import GroupPaths
from ...errors import Problem
from ..configuration import Configuration
from ..cost.dispatch import Visits, in_turn
from ..cost.setting import Setting, VisitsOf
from ..cost.sharding import Sharding

if TYPE_CHECKING:
    from ..experts.prices import Prices
    from ..experts.routing import Fitted, Routing
    from ..experts.routing_report import RoutingReport


def sampled_visits(routing: Routing) -> VisitsOf:
    """Of any ep group, by a few layers and tokens of the trace."""
    from ..experts.routing import Group

    def visits(setting: Setting, sharding: Sharding, group: GroupPaths) -> Visits:
        asked = Group.of(group, sharding.expert_replicas, sharding.dispatch)
        return visits_of(routing.sampled(asked, prices_of(setting, sharding, group)))

    return visits


def visits_of(fitted: Fitted) -> Visits:
    return Visits(fitted.load, fitted.rank, fitted.node)


def prices_of(setting: Setting, sharding: Sharding, group: GroupPaths) -> Prices:
    """Of the layer's experts on the links of a group, for one sequence a rank."""
    from ..experts.prices import Prices

    layer = next(each for each in setting.kinds if each.moe)
    assert layer.moe is not None
    tokens, moe, rates = setting.job.seq_len, layer.moe, setting.rates
    rows = tokens * moe.top_k * group.size / moe.experts
    each = 2 * rows * layer.hidden * moe.expert.width / sharding.etp
    flops = rates.peak_flops * rates.matmul_fraction(each) * rates.experts
    turns = in_turn(sharding.dispatch, sharding.dispatch_chunks, setting.hides_communication)
    return Prices.of(layer, group, flops, setting.element_bytes, tokens, sharding.dispatch, turns)


def reported_visits(report: RoutingReport | None) -> VisitsOf | None:
    """Those that a plan was priced with, for the ep group that it has."""
    if report is None:
        return None
    from ..experts.routing import Group

    def visits(setting: Setting, sharding: Sharding, group: GroupPaths) -> Visits | None:
        asked = Group.of(group, sharding.expert_replicas, sharding.dispatch)
        same = (asked.ep, asked.per_node) == (report.ep, report.per_node)
        return Visits(report.load, report.rank_share, report.node_share) if same else None

    return visits


def routing_problems(setting: Setting, configuration: Configuration, report: RoutingReport) -> list[Problem]:
    """Where the ep group is another one than the plan's routing was looked at for."""
    return list(_other_group(setting, configuration, report))


def _other_group(setting: Setting, configuration: Configuration, report: RoutingReport) -> Iterator[Problem]:
    from ..experts.routing import Group

    mesh = configuration.mesh
    if mesh.ep != report.ep:
        rule = f"the plan's routing was looked at for ep={report.ep}"
        yield Problem("--pin ep", mesh.ep, rule, f"ep={report.ep}")
        return
    group = Group.of(setting.group(mesh.etp, mesh.ep), 0, configuration.dispatch)
    if group.per_node != report.per_node:
        rule = f"the plan's routing was looked at for {report.per_node} ep ranks in each node"
        yield Problem("--pin etp", mesh.etp, rule, "meshwright plan ... --routing, anew")
