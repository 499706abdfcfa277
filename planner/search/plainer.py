"""Plainer: of two plans that are as good, the one that asks for less."""

from __future__ import annotations

from dataclasses import replace

from ..cost.setting import Setting
from ..legality import is_legal
from ..pins import Pins
from .bound import holds
from .objective import Priced, ValueOf, price_as

WORTH = 1e-3
"""What offloading must gain, relative: it asks for host memory, and its copies may disturb what runs beside them."""


def plainer(setting: Setting, pins: Pins, best: Priced, value_of: ValueOf) -> Priced:
    """The same without offloading, where that is legal, has room and is hardly worse."""
    if not best.configuration.offload or pins.offload is not None:
        return best
    stays = replace(best.configuration, offload=0.0)
    if not is_legal(setting, stays) or not holds(setting, stays):
        return best
    found = price_as(setting, stays, value_of)
    return found if found.value <= best.value * (1 + WORTH) else best
