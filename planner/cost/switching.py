"""Switching: how far experts are gathered, chosen anew in every step, from one layout that serves every degree.

Tutel (arXiv:2206.03382, section 3.2) keeps the experts of an ep group where they are and switches between sending
tokens to experts (degree 1) and sending experts to tokens: of degree d, neighbours in runs of d ranks gather one
another's experts, forward and backward, scatter their gradients, and take the tokens of all these experts in equal
parts; of degree ep each rank has all experts and nothing is dispatched. Parameters do not move between steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ..configuration import Configuration
from ..model import Layer
from .communication import all_gather_s, reduce_scatter_s
from .dispatch import Visits, balanced
from .exchange import experts_s
from .setting import Setting
from .sharding import sharding_of

GRADIENT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Switching:
    """Seconds of a microbatch through a layer's experts, means over steps: with the one degree that is best for all
    of them, and with that which is best in each."""

    degree: int
    fixed_s: float
    switched_s: float
    used: tuple[int, ...]  # degrees that are best in some step

    @property
    def gain(self) -> float:
        return 1 - self.switched_s / self.fixed_s


def switching(setting: Setting, configuration: Configuration, steps: Sequence[Sequence[float]]) -> Switching:
    """`steps`: for each the rows of every ep rank, over their mean."""
    layer = next(each for each in setting.kinds if each.moe)
    ep = configuration.mesh.ep
    degrees = [degree for degree in range(1, ep + 1) if ep % degree == 0]
    times = [
        {d: degree_s(setting, configuration, layer, d, gathered_load(loads, d)) for d in degrees} for loads in steps
    ]
    fixed = {degree: fmean(each[degree] for each in times) for degree in degrees}
    best = min(degrees, key=lambda degree: fixed[degree])
    used = sorted({min(degrees, key=lambda degree: (each[degree], degree)) for each in times})
    return Switching(best, fixed[best], fmean(min(each.values()) for each in times), tuple(used))


def gathered_load(loads: Sequence[float], degree: int) -> float:
    """Of the busiest rank where runs of `degree` ranks share their rows."""
    return max(fmean(loads[first : first + degree]) for first in range(0, len(loads), degree))


def degree_s(setting: Setting, configuration: Configuration, layer: Layer, degree: int, load: float) -> float:
    """Seconds of a microbatch through the experts of a layer, forward and backward, the busiest rank having `load`
    times the mean of rows."""
    assert layer.moe is not None
    mesh, sharding = configuration.mesh, sharding_of(configuration)
    fewer = replace(sharding, ep=mesh.ep // degree, dispatch="copies" if degree == mesh.ep else sharding.dispatch)
    ep = setting.group(mesh.etp * degree, mesh.ep // degree)
    if ep.domains in (1, ep.size) and fewer.dispatch == "nodes":
        fewer = replace(fewer, dispatch="ranks")
    even = balanced(layer.moe, ep)
    groups = replace(setting.groups(fewer), ep=ep, visits=Visits(load, even.rank, even.node))
    spent = experts_s(layer, fewer, setting.job.seq_len, setting.rates, groups, setting.hides_communication)
    return sum(spent) + _gathered_s(setting, configuration, layer, degree)


def _gathered_s(setting: Setting, configuration: Configuration, layer: Layer, degree: int) -> float:
    """Weights of all experts of a run, twice, and their gradients."""
    mesh = configuration.mesh
    group = setting.group(mesh.etp, degree)
    held = degree * layer.expert_parameters / (mesh.ep * mesh.etp)
    weights_s = 2 * all_gather_s(group, held * setting.element_bytes)
    return weights_s + reduce_scatter_s(group, held * GRADIENT_BYTES)
