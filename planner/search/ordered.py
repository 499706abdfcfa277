"""Ordered: a search over configurations and over orders of nodes at once.

Where orders of the nodes differ, a search with every link as in its best order bounds all plans in all orders, and says
which configurations are worth an order of their own: the best of each mesh, while its bound is below the best price.
The best of these orders (`mapping.py`) is then searched itself, for configurations that suit it better. Where that
leaves more than the gap that is asked for and orders are few, every one of them is searched. Besides, what is best on
the cluster without its exceptions gets its best order. Where devices are missing, every choice of those that are left
is searched (`clusters/in_use.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from ...clusters.in_use import choices
from ...clusters.paths import network_path
from ...clusters.schema import Exceptions
from ...clusters.wiring import Wiring, is_uniform
from ...errors import InfeasibleError, InputError
from ..cost.setting import Setting
from ..plan import OrdersProven
from .group_orders import better_order, group_orders
from .mapping import Mapper
from .objective import Priced, price_as
from .request import Request


@dataclass(frozen=True, slots=True)
class Searched:
    """The best configuration of each mesh in a setting, best first; nothing in the space has a value below `lower`."""

    setting: Setting
    ranked: tuple[Priced, ...]
    lower: float
    candidates: int
    priced: int
    bounded: int = 0  # branches
    orders: OrdersProven = ""


Search = Callable[[Setting], Searched]

MAPPED = 6
"""Meshes that get an order of their own."""
FEW = 8
"""Orders that are all searched where the bound over all of them leaves more than the gap that is asked for."""


def in_best_order(request: Request, search: Search) -> Searched:
    """The best of all searches, on the devices and in the order where it is best. Raises as `search` does."""
    setting = request.setting()
    if request.rank_map:
        return search(setting)
    return _best_of(partial(_of_devices, request, setting, devices, search) for devices in choices(request.cluster))


def _of_devices(request: Request, setting: Setting, devices: tuple[int, ...], search: Search) -> Searched:
    """The search on some of the devices, in the orders of node groups that are worth while."""
    if devices:
        setting = setting.mapped(devices)
    orders = group_orders(setting)
    first = _best_of(partial(_in_order, request, setting.mapped(order), search) for order in orders)
    better, found = better_order(first.setting, first.ranked[0].configuration), first
    if better is not None:
        found = _best_of([lambda: first, partial(_in_order, request, setting.mapped(better), search)])
    return replace(found, orders=_proven(setting, found, len(orders)))


def _proven(setting: Setting, found: Searched, orders: int) -> OrdersProven:
    """What the bound covers. Where devices may stay idle it is that of all of them in use."""
    groups = len(setting.topology.sites)
    if not setting.every_device or (groups == 1 and not found.orders):
        return ""
    if groups == 1:
        return "every"
    return "groups whole" if groups <= orders else "groups kept"


def _best_of(searches: Iterable[Callable[[], Searched]]) -> Searched:
    """The one with the best plan; what all of them have shown. Where there is none in any, why there is none in the
    first: what does not fit on some devices, or in some order of them, may fit in another."""
    found, errors = list[Searched](), list[InputError | InfeasibleError]()
    for search in searches:
        try:
            found.append(search())
        except (InputError, InfeasibleError) as error:
            errors.append(error)
    if not found:
        raise errors[0]
    best = min(found, key=lambda each: each.ranked[0].value)
    return replace(
        best,
        lower=min(each.lower for each in found),
        candidates=sum(each.candidates for each in found),
        priced=sum(each.priced for each in found),
        bounded=sum(each.bounded for each in found),
    )


def _in_order(request: Request, setting: Setting, search: Search) -> Searched:
    """The search over the orders of nodes inside their groups."""
    if is_uniform(setting.cluster):  # nodes of a group are interchangeable: the standard order is as good as any
        return search(setting)
    mapper = Mapper(setting)
    if mapper.count == 1:
        return search(setting)
    bound = search(mapper.any_order())
    lower = min(bound.lower, bound.ranked[0].value)
    found = _improved(request, mapper, search(_first_order(request, mapper, bound)))
    if found.ranked[0].value * (1 - request.gap) > lower and mapper.count <= FEW:
        found, lower = _in_every_order(mapper, search, found)
    even = _even(setting)
    if even is not None:
        found, lower = _with_even(request, mapper, search(even), found, lower)
    return replace(found, lower=lower, orders="every", candidates=bound.candidates, priced=bound.priced)


def _even(setting: Setting) -> Setting | None:
    """The cluster without its exceptions, in the order of its devices: one node group of which no node and no path is
    better than the group says, and no device missing."""
    wiring, groups = Wiring(setting.cluster), setting.cluster.node_groups
    if len(groups) > 1 or setting.rank_map or setting.cluster.missing_devices or groups[0].fabric.matrix:
        return None
    usual = network_path(groups[0])
    for node in wiring.nodes:
        faster = node.network and usual and node.network.bandwidth_bytes_per_s > usual.bandwidth_bytes_per_s
        if faster or node.fabric_factor > 1:
            return None
    cluster = setting.cluster.model_copy(update={"exceptions": Exceptions()})
    kept = setting.job, setting.every_device, setting.framework, setting.narrow
    return Setting(setting.architecture, cluster, *kept, routing=setting.routing)


def _with_even(
    request: Request, mapper: Mapper, even: Searched, found: Searched, lower: float
) -> tuple[Searched, float]:
    """Where links are alike the search looks at more: what it finds there may be best here too. Then nothing but its
    own bound, without exceptions, covers that larger space."""
    for each in even.ranked[:MAPPED]:
        best = found.ranked[0]
        if each.value >= best.value:
            break
        setting = mapper.setting(mapper.best(each.configuration).rank_map)
        value_of = request.measure(setting)
        priced = price_as(setting, each.configuration, value_of)
        if priced.value < best.value and priced.predicted.fits:
            same = each.configuration.mesh
            others = [price_as(setting, other.configuration, value_of) for other in found.ranked]
            left = (other for other in others if other.configuration.mesh != same and other.value >= priced.value)
            found = replace(found, setting=setting, ranked=(priced, *sorted(left, key=lambda other: other.value)))
            lower = min(lower, even.lower)
    return found, lower


def _first_order(request: Request, mapper: Mapper, bound: Searched) -> Setting:
    """The order in which the best of what the bound leaves open is fastest."""
    value_of = request.measure(bound.setting)
    best, order = float("inf"), bound.setting
    for each in bound.ranked[:MAPPED]:
        if each.value >= best:
            break
        mapping = mapper.best(each.configuration)
        value = value_of(each.configuration, mapping.step_s)
        if value < best:
            best, order = value, mapper.setting(mapping.rank_map)
    return order


def _improved(request: Request, mapper: Mapper, found: Searched) -> Searched:
    """What a search found, in an order that suits its best configuration better, if there is one."""
    best, value_of = found.ranked[0], request.measure(found.setting)
    mapping = mapper.best(best.configuration)
    if value_of(best.configuration, mapping.step_s) >= best.value:
        return found
    setting = mapper.setting(mapping.rank_map)
    ranked = (price_as(setting, each.configuration, request.measure(setting)) for each in found.ranked)
    return replace(found, setting=setting, ranked=tuple(sorted(ranked, key=lambda each: each.value)))


def _in_every_order(mapper: Mapper, search: Search, found: Searched) -> tuple[Searched, float]:
    """The best of a search in each of a few orders, which proves what a bound over all of them could not."""
    lower = float("inf")
    for setting in mapper.every():
        in_order = search(setting)
        lower = min(lower, in_order.lower, in_order.ranked[0].value)
        if in_order.ranked[0].value < found.ranked[0].value:
            found = in_order
    return found, lower
