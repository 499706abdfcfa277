"""Typical shares of the kernel tables: how kinds of devices compare over the frameworks that were fitted on them.

A framework that never ran on a kind of device still says how it compares with others on those it did run on. The
logarithm of a fitted share is taken as a part of its framework and a part of its device; both by alternating means over
the bundled frameworks, which is the least-squares solution of such a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from statistics import fmean
from typing import Literal

Figure = Literal["matmul", "attention"]
Shares = Mapping[tuple[str, str], float]  # (framework, kind of device) -> fitted share

ROUNDS = 200


def device_parts(shares: Shares) -> dict[str, float]:
    """Each kind's part of the shares, as a factor; only the ratio of two of them means something."""
    logs = {key: math.log(share) for key, share in shares.items()}
    of_device = dict.fromkeys((kind for _, kind in logs), 0.0)
    for _ in range(ROUNDS):
        of_framework = {
            name: fmean(value - of_device[kind] for (other, kind), value in logs.items() if other == name)
            for name in {name for name, _ in logs}
        }
        of_device = {
            kind: fmean(value - of_framework[name] for (name, other), value in logs.items() if other == kind)
            for kind in of_device
        }
    return {kind: math.exp(part) for kind, part in of_device.items()}


@cache
def compared(figure: Figure) -> dict[str, float]:
    """The parts of all kinds of devices that a bundled framework was fitted on."""
    from .framework import framework, names

    shares: dict[tuple[str, str], float] = {}
    for name in names():
        found = framework(name)
        if found.like or not found.fitted_on:
            continue
        shares[name, found.fitted_on] = getattr(found.costs, figure)
        for kind, own in found.on.items():
            shares[name, kind] = getattr(own, figure) or getattr(found.costs, figure)
    return device_parts(shares)
