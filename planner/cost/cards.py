"""Cards: which shares of the ranks' network cards a step's transfers and collectives take while they are alone.

A share is the part of its time in which bytes keep the card busy (what it takes, less what it would take if bandwidth
had no end: latency, rings inside a domain), times the part of the card's rate that the path can carry: what is narrower
than a card leaves the rest to others. A device has its own part of its node's cards, as everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from ...clusters.topology import GroupPaths, Path
from ..configuration import Configuration
from ..simulate.work import CardShares
from .adjusted import path as path_of
from .communication import all_reduce_s, reduce_scatter_s
from .data_parallel import shards, stage_parameters, wire_bytes
from .setting import Setting
from .stage import border_s


def card_shares(setting: Setting, configuration: Configuration) -> CardShares | None:
    """None where no transfer between pipeline ranks goes over a card, and in the bound over all orders of nodes: more
    bandwidth is never slower there."""
    mesh = configuration.mesh
    stage_ranks = mesh.dp * mesh.cp * mesh.tp
    paths = setting.borders(stage_ranks, mesh.pp) if mesh.pp > 1 else ()
    if setting.whole.any_order or not any(path.is_network for path in paths):
        return None
    rates = _rates(setting.whole, stage_ranks, mesh.pp)
    ends = zip(rates, (*rates[1:], rates[0]), strict=True)
    busy = {path: _busy(path, lambda path: border_s(setting, configuration, path)) for path in dict.fromkeys(paths)}
    borders = tuple(
        (_part(busy[path], path, here), _part(busy[path], path, there))
        for path, (here, there) in zip(paths, ends, strict=True)
    )
    return CardShares(borders=borders, data=tuple(_data(setting, configuration, rates)))


def _rates(setting: Setting, stage_ranks: int, stages: int) -> tuple[float, ...]:
    """Bytes per second that a device of every pipeline stage can send at once over its part of its node's cards, the
    slowest of the stage; infinite where there is no card."""
    starts = range(0, stage_ranks * stages, stage_ranks) if setting.is_mixed else range(1)
    cards = [setting.topology.card(range(start, start + stage_ranks)) for start in starts]
    paths = [card and path_of(card, setting.adjustment) for card in cards]
    rates = tuple(path.bandwidth_bytes_per_s if path else math.inf for path in paths)
    return rates if setting.is_mixed else rates * stages


def _busy(path: Path, seconds: Callable[[Path], float]) -> float:
    """The part of its time in which something keeps the cards of a path busy."""
    if not path.is_network:
        return 0.0
    whole_s = seconds(path)
    return 1 - seconds(replace(path, bandwidth_bytes_per_s=math.inf)) / whole_s if whole_s else 0.0


def _part(busy: float, path: Path, card_bytes_per_s: float) -> float:
    return busy * min(1.0, path.bandwidth_bytes_per_s / card_bytes_per_s) if busy else 0.0


def _data(setting: Setting, configuration: Configuration, rates: tuple[float, ...]) -> Iterator[float]:
    """By pipeline rank, of the reduction of its first stage's dense gradients; gathers and experts take as much."""
    mesh, tied = configuration.mesh, setting.architecture.tied_embeddings
    held = stage_parameters(setting.at(configuration, 0).costs(configuration), configuration, tied)
    collective = reduce_scatter_s if configuration.zero else all_reduce_s
    known: dict[tuple[GroupPaths, float], float] = {}
    for rank, rate in enumerate(rates):
        stage = configuration.stages_of(rank)[0]
        seen = setting.stage_at(configuration, rank)
        group, layers = seen.group(mesh.tp, shards(configuration)), max(1, configuration.stage_layers[stage])
        key = group, wire_bytes(seen) * held[stage].dense / layers
        if key not in known:
            known[key] = _busy_with(collective, *key)
        yield 0.0 if group.outer is None else _part(known[key], group.outer, rate)


def _busy_with(collective: Callable[[GroupPaths, float], float], group: GroupPaths, size_bytes: float) -> float:
    """`_busy` of the cards between the domains of a group."""
    if group.outer is None:
        return 0.0
    return _busy(group.outer, lambda path: collective(replace(group, outer=path), size_bytes))
