"""Spread vocabularies: the same mesh with embedding and head over all pipeline ranks, where that could be faster.

In a list tried for the best mesh alone, once it is known, with its own schedule and with that in which ranks wait
least for a pass: each has a list of its own to be made and played.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

from ..configuration import Configuration
from ..cost.setting import Setting
from ..legality import is_legal
from ..pins import Pins
from ..schedule.table import table
from .bound import Balancer, Bounded, bounded, holds

BESIDE = "zb-v"


def spread_variants(
    setting: Setting, pins: Pins, configuration: Configuration, worthwhile: Callable[[Bounded], bool]
) -> Iterator[Configuration]:
    """Legal ones that fit, with layers balanced anew. `worthwhile` judges by the lower bound."""
    if not _worthwhile(setting, pins, configuration):
        return
    layers = len(setting.architecture.layers)
    balancer = Balancer(setting)
    recomputes = dict.fromkeys((configuration.recompute[0], pins.recompute or "none"))
    for (schedule, vpp), choice in product(_schedules(pins, configuration), recomputes):
        recompute = (choice,) * configuration.mesh.pp
        spread = replace(configuration, schedule=schedule, vpp=vpp, recompute=recompute, spread_vocabulary=True)
        if configuration.mesh.pp * vpp > layers:
            continue
        found = balancer.balanced(spread)
        if is_legal(setting, found) and worthwhile(bounded(setting, found)) and holds(setting, found):
            yield found


def _schedules(pins: Pins, configuration: Configuration) -> Iterator[tuple[str, int]]:
    """Names and virtual stages a rank."""
    yield configuration.schedule, configuration.vpp
    chunks = table()[BESIDE].chunks.start
    if configuration.schedule != BESIDE and pins.vpp in (None, chunks):
        yield BESIDE, chunks


def spread_share(setting: Setting, pins: Pins, shared: Configuration) -> Configuration | None:
    """A share whose vocabulary is spread, where that is worth a try."""
    return replace(shared, spread_vocabulary=True) if _worthwhile(setting, pins, shared) else None


def _worthwhile(setting: Setting, pins: Pins, configuration: Configuration) -> bool:
    """Not where an output layer takes less than half a layer (nothing is out of balance then), nor under a schedule
    that somebody asked for: it would hold more."""
    asked = (pins.spread_vocabulary, pins.schedule, pins.actions, pins.in_flight) != (None,) * 4
    if asked or configuration.mesh.pp == 1 or not setting.framework.spreads_vocabulary:
        return False
    costs = setting.costs(configuration)
    return 2 * costs.head.forward_s >= min(block.forward_s for block in costs.layers)
