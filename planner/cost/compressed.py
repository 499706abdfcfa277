"""Compressed: seconds of gradients that travel in 8 bits (`runtime/parallel/compressed.py`).

What each rank sends the others is under way beside the last backward pass, a layer after another. Sums are made, sent
to all and read after it: each layer's message goes out while the next one's sum is made, and is read when all are on
their way. Quantising stands in the backward pass itself, beside nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...clusters.topology import GroupPaths
from ...kernels.facts.quantise import MESSAGE_BYTES
from ..compression import extra_bytes, passes_bytes
from ..configuration import Configuration
from .communication import all_gather_s, all_to_all_s
from .declared import GRADIENT_BYTES
from .memory import Held
from .setting import Setting

Collective = Callable[[GroupPaths, float], float]


class Replicated(NamedTuple):
    """Parameters whose gradients so many ranks add up."""

    parameters: float
    ranks: int
    stride: int


def replicated(configuration: Configuration, held: Held) -> Iterator[Replicated]:
    """Dense ones over dp x cp; experts over the ranks that have the same ones, where ranks share them out."""
    mesh = configuration.mesh
    folded = mesh.ep * mesh.etp
    apart = held.expert if folded > 1 else 0.0
    found = [Replicated(held.total - apart, mesh.dp * mesh.cp, mesh.tp), Replicated(apart, mesh.edp, folded)]
    yield from (each for each in found if each.parameters and each.ranks > 1)


def beside_s(setting: Setting, configuration: Configuration, held: Held, layers: int) -> float:
    """Seconds of the all-to-alls of a stage, beside its last backward: one a layer."""
    return sum(_link_s(setting, each, layers, all_to_all_s) for each in replicated(configuration, held))


def after_s(setting: Setting, configuration: Configuration, held: Held, layers: int) -> float:
    """Seconds of everything else that a stage adds to a step."""
    return sum(_after_s(setting, each, layers) for each in replicated(configuration, held))


def residual_bytes(configuration: Configuration, held: Held) -> int:
    """Of device memory beside the gradients, with the messages."""
    found = replicated(configuration, held)
    return sum(extra_bytes(round(GRADIENT_BYTES * each.parameters), each.ranks) for each in found)


def _after_s(setting: Setting, each: Replicated, layers: int) -> float:
    rates = setting.rates
    made, added, read = (
        moved * each.parameters / rates.declared_bytes_per_s + layers * rates.launch_s
        for moved in passes_bytes(each.ranks)
    )
    sent = _link_s(setting, each, layers, all_gather_s)
    if not setting.hides_communication:
        return made + added + sent + read
    return made + max(added + read, sent + (added + read) / layers)


def _link_s(setting: Setting, each: Replicated, layers: int, collective: Collective) -> float:
    group, message_bytes = setting.group(each.stride, each.ranks), MESSAGE_BYTES * each.parameters / layers
    return layers * collective(group, message_bytes) * setting.execution.network
