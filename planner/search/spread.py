"""Spread vocabularies: the same mesh with embedding and head over all pipeline ranks, where that could be faster."""

from __future__ import annotations

from dataclasses import replace

from ..configuration import Configuration
from ..cost.setting import Setting
from ..pins import Pins


def spread_share(setting: Setting, pins: Pins, shared: Configuration) -> Configuration | None:
    """A share whose vocabulary is spread. None where an output layer takes less than half a layer does (nothing is out
    of balance then), nor of a schedule that somebody asked for: it would hold more."""
    asked = (pins.spread_vocabulary, pins.schedule, pins.actions, pins.in_flight) != (None,) * 4
    if asked or shared.mesh.pp == 1 or not setting.framework.spreads_vocabulary:
        return None
    costs = setting.costs(shared)
    if 2 * costs.head.forward_s < min(block.forward_s for block in costs.layers):
        return None
    return replace(shared, spread_vocabulary=True)
