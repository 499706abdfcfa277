"""Routed: the plan that a search over a trace of routing has found, with its experts placed on all layers.

The search reads a few layers of the trace; here the best configuration gets the placement of all of them, copies of
experts where these pay, and homes of tokens where these are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...clusters.paths import GroupPaths
from ...errors import InfeasibleError
from ...units import format_bytes, format_seconds
from ..cost.dispatch import Visits
from ..cost.interval import lacks_layers
from ..cost.setting import Setting, VisitsOf
from ..cost.sharding import Sharding, sharding_of
from ..experts.planned import ExpertPlacement
from ..experts.routing_report import Outcome, RoutingReport
from ..experts.token_homes import TokenHomes
from ..legality import is_legal
from ..plan import Plan
from .bound import holds
from .homes import can_shuffle, home_tokens
from .objective import Priced, price_as
from .ordered import Searched
from .request import Request
from .visits import prices_of, sampled_visits, visits_of

if TYPE_CHECKING:
    from ..experts.routing import Fitted, Group, Routing


@dataclass(frozen=True, slots=True)
class Settled:
    """What was found with the best of it placed in full: the request now says what the trace says of that."""

    request: Request
    found: Searched
    placement: ExpertPlacement | None
    report: RoutingReport | None
    fitted: Fitted | None = None
    homes: TokenHomes | None = None
    can_shuffle: bool = False  # and yet has no homes

    @property
    def best(self) -> Priced:
        return self.found.ranked[0]

    def plan(self, made: Plan) -> Plan:
        """With the placement and what it gains."""
        told = () if self.report is None else words(self.report, self.placement)
        known = {"placement": self.placement, "routing": self.report, "token_homes": self.homes}
        return made.model_copy(update=known | {"why": (*made.why[:3], *told, *_homes_words(self), *made.why[3:])})


def settled(request: Request, found: Searched) -> Settled:
    """The best of what was found with its experts placed on all layers. The sample may flatter a configuration: the
    next best is placed too, until none is left that the sample holds for better."""
    routing = request.routing
    if routing is None or not any(each.configuration.mesh.ep > 1 for each in found.ranked):
        return Settled(request, found, None, None)
    tried: list[Settled] = []
    for each in found.ranked:
        if any(made.best.predicted.fits and made.best.value <= each.value for made in tried):
            break
        tried.append(_of_one(request, routing, found, each))
    holding = [made for made in tried if made.best.predicted.fits]
    if not holding:
        needed, there = tried[0].best.predicted.fullest_bytes
        full = f"{format_bytes(needed)} of {format_bytes(there)}"
        raise InfeasibleError(f"no plan that was found fits with the loads of all layers of {routing.source}: {full}")
    best = min(holding, key=lambda made: made.best.value)
    others = [made.best for made in holding if made is not best] + list(found.ranked[len(tried) :])
    others.sort(key=lambda each: each.value)
    return _with_homes(replace(best, found=replace(best.found, ranked=(best.best, *others))), routing)


def _with_homes(made: Settled, routing: Routing) -> Settled:
    """With those of tokens, where they are asked for, can be and save anything."""
    best, fitted = made.best.configuration, made.fitted
    if not made.request.shuffle_tokens or fitted is None or not can_shuffle(fitted, best):
        return made
    found = home_tokens(routing, fitted, best, made.request.job.seq_len)
    return replace(made, can_shuffle=True) if found is None else replace(made, placement=found[0], homes=found[1])


def _of_one(request: Request, routing: Routing, found: Searched, best: Priced) -> Settled:
    """One configuration with its experts placed; where all ranks have all of them it stays as it is."""
    from ..experts.routing import Group

    setting = found.setting
    if best.configuration.mesh.ep == 1:
        return Settled(request, replace(found, ranked=(best,)), None, None)
    chosen = min((best, *_with_copies(request, setting, best)), key=lambda each: each.value)
    sharding = sharding_of(chosen.configuration)
    group = setting.group(sharding.etp, sharding.ep)
    asked = Group.of(group, sharding.expert_replicas, sharding.dispatch)
    placed = routing.whole(asked, prices_of(setting, sharding, group))
    exact = replace(request, visits=_exact(routing, sharding, visits_of(placed)))
    seen = exact.setting()
    seen = seen.mapped(setting.rank_map) if setting.rank_map else seen
    priced = price_as(seen, chosen.configuration, request.measure(seen))
    ranked = Searched(seen, (priced,), found.lower, found.candidates, found.priced, found.bounded, found.orders)
    return Settled(exact, ranked, _placement(placed), _report(routing, asked, placed), placed)


def _with_copies(request: Request, setting: Setting, best: Priced) -> Iterator[Priced]:
    """The same with a slot or two more on every rank, where that is legal and has room. Copies are never timed by a
    profile: none beside layers that were."""
    ep = best.configuration.mesh.ep
    if request.pins.expert_replicas is not None:
        return
    for replicas in (ep, 2 * ep):
        made = replace(best.configuration, expert_replicas=replicas)
        untimed = lacks_layers(setting, made) and not lacks_layers(setting, best.configuration)
        if not untimed and is_legal(setting, made) and holds(setting, made):
            yield price_as(setting, made, request.measure(setting))


def _exact(routing: Routing, chosen: Sharding, known: Visits) -> VisitsOf:
    """Of the chosen sharding what all layers say, of others the sample."""
    sampled = sampled_visits(routing)

    def visits(setting: Setting, sharding: Sharding, group: GroupPaths) -> Visits | None:
        same = replace(chosen, microbatch=sharding.microbatch, dispatch_chunks=sharding.dispatch_chunks)
        return known if same == sharding else sampled(setting, sharding, group)

    return visits


def _placement(placed: Fitted) -> ExpertPlacement | None:
    if placed.placement is None:
        return None
    return ExpertPlacement(slots=tuple(tuple(map(int, layer)) for layer in placed.placement.permutation))


def _report(routing: Routing, group: Group, placed: Fitted) -> RoutingReport:
    found = placed.placement
    return RoutingReport(
        source=routing.source,
        tokens=routing.tokens,
        held_out=routing.by,
        ep=group.ep,
        per_node=group.per_node,
        load=placed.load,
        rank_share=placed.rank,
        node_share=placed.node,
        contiguous=Outcome.of(placed.contiguous),
        placed=Outcome.of(placed.placed),
        bound_s=None if found is None else found.bound_s / routing.fit.num_layers,
        gap=None if found is None else found.gap,
    )


def _homes_words(made: Settled) -> tuple[str, ...]:
    if not made.request.shuffle_tokens:
        return ()
    if made.homes is None:
        needs = "sp, ep of whole groups of tp inside nodes, etp=1 and one copy of each expert are needed"
        why = "no split by their ids saves copies" if made.can_shuffle else needs
        return (f"Tokens are not shuffled over tp ranks: {why}.",)
    return (
        "Tokens of a sequence go to tp ranks by their ids, and ranks of a tp group have exchanged their experts, layer "
        f"by layer, to suit that: it saves {made.homes.saved:.1%} of the copies to other ranks on what was held out.",
    )


def words(report: RoutingReport, placement: ExpertPlacement | None) -> tuple[str, ...]:
    """What the trace decided, in a sentence."""
    before, after = report.contiguous, report.placed
    of = f"{report.source} ({report.tokens:,} tokens, half of them {report.held_out} held out)"
    if placement is None or report.gap is None:
        times = format_seconds(before.layer_time_s)
        return (f"By {of} contiguous experts are as fast as any placement found: {times} a layer.",)
    return (
        f"Experts are placed by {of}: on what was held out a layer takes {format_seconds(after.layer_time_s)}, "
        f"{report.gain:.1%} less than with contiguous ones (busiest rank {before.load:.3f} -> {after.load:.3f} of the "
        f"mean, other nodes a token {before.remote_nodes:.2f} -> {after.remote_nodes:.2f}); on what it was fitted to "
        f"none takes over {report.gap:.1%} less.",
    )
