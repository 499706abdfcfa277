"""Which ways to send tokens to their experts are worth pricing: those that no other beats in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from ..configuration import Configuration, Dispatch
from ..cost.exchange import Groups, experts_s, least_s
from ..cost.rates import Rates
from ..cost.setting import Setting
from ..cost.sharding import Sharding, sharding_of
from ..model import Layer
from ..pins import Pins

CHUNKS = (1, 2, 4, 8)
"""Parts of a microbatch that are tried: few are best, since each pays latencies and launches (Tutel, arXiv:2206.03382,
figure 22; FSMoE, arXiv:2501.10714, section 4.3)."""


class Choice(NamedTuple):
    """What is sent, and in how many parts of a microbatch."""

    dispatch: Dispatch = "copies"
    dispatch_chunks: int = 1


Seconds = Callable[[Layer, Sharding, int, Rates, Groups, bool], tuple[float, float]]
Known = dict[tuple[Sharding, tuple[Choice, ...]], list[Choice]]
"""Answers so far, of one setting."""


def choices(setting: Setting, pins: Pins, configuration: Configuration, known: Known) -> list[Choice]:
    """What is pinned, or else what no other beats in the seconds of a layer's experts, forward and backward: memory and
    everything else about a plan are the same with all of them. The plainest of equal ones."""
    mesh = configuration.mesh
    folds = mesh.dp * mesh.cp * mesh.tp % (mesh.ep * mesh.etp) == 0 and mesh.world <= setting.num_devices
    if mesh.ep == 1 or not folds or not setting.has_experts or not setting.framework.experts.planned:
        return [Choice(pins.dispatch or "copies", pins.dispatch_chunks or 1)]
    found = tuple(_possible(setting, pins, configuration))
    key = sharding_of(configuration), found
    if key not in known:
        known[key] = list(found) if len(found) == 1 else _unbeaten(setting, *key)
    return known[key]


def _possible(setting: Setting, pins: Pins, configuration: Configuration) -> Iterator[Choice]:
    mesh = configuration.mesh
    crosses = 1 < mesh.ep_per_node(setting.domain_devices) < mesh.ep
    kinds: tuple[Dispatch, ...] = ("copies", "ranks", "nodes") if crosses else ("copies", "ranks")
    tokens = configuration.microbatch * setting.job.seq_len // (mesh.cp * mesh.tp)
    few = CHUNKS if setting.hides_communication else (1,)
    for kind in (pins.dispatch,) if pins.dispatch else kinds:
        for parts in (pins.dispatch_chunks,) if pins.dispatch_chunks else few:
            if pins.dispatch_chunks or parts <= max(1, tokens):
                yield Choice(kind, parts)


def _unbeaten(setting: Setting, sharding: Sharding, found: tuple[Choice, ...]) -> list[Choice]:
    """Of each kind the whole microbatch first: what the links and the products take of it, no parts of it undercut."""
    groups, times, least = setting.groups(sharding), dict[Choice, list[float]](), dict[Dispatch, list[float]]()
    for choice in sorted(found, key=lambda each: each.dispatch_chunks):
        at_least = least.get(choice.dispatch)
        if at_least and any(_no_worse(other, at_least) for other in times.values()):
            continue
        asked = replace(sharding, **choice._asdict())
        if choice.dispatch not in least:
            least[choice.dispatch] = _measures(setting, asked, groups, least_s)
        times[choice] = _measures(setting, asked, groups, experts_s)
    measured = [times.get(choice) for choice in found]
    return [choice for place, choice in enumerate(found) if not _beaten(measured, place)]


def _no_worse(one: list[float], other: list[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def _measures(setting: Setting, sharding: Sharding, groups: Groups, of: Seconds) -> list[float]:
    """Seconds of all kinds of layers, forward and backward."""
    if setting.routing is not None:  # visits are of what is sent
        groups = setting.groups(sharding)
    seq_len, hides = setting.job.seq_len, setting.hides_communication
    layers = [layer for layer in setting.kinds if layer.moe]
    return [each for layer in layers for each in of(layer, sharding, seq_len, setting.rates, groups, hides)]


def _beaten(measured: list[list[float] | None], place: int) -> bool:
    """Another is nowhere worse, and comes earlier or is somewhere better."""
    own = measured[place]
    if own is None:
        return True
    others = ((index, other) for index, other in enumerate(measured) if other is not None and index != place)
    return any((index < place or other != own) and _no_worse(other, own) for index, other in others)
