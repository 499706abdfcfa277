"""Units: what data parallelism around a layer was measured to cost, as work of a step. Where collectives take the cores
that compute (CPUs): elsewhere they run beside it, and the event interpreter decides what is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...clusters.layer_times import UnitTime
from ..configuration import Configuration, Mesh
from ..simulate.work import Work
from .memory import Held
from .setting import Setting


@dataclass(frozen=True, slots=True)
class Units:
    """By virtual stage, over all its units: seconds added to every forward, more to the first, to every backward, more
    to the last."""

    zero: int
    forward_s: tuple[float, ...]
    first_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    last_s: tuple[float, ...]

    def around(self, pipeline: Work) -> Work:
        """Hooks go with their actions. What ZeRO 2 and 3 do in every backward, and ZeRO 3 in every forward, are
        collectives of these; what else the first and the last of them have is theirs alone."""
        if self.zero < 2:
            return replace(
                pipeline,
                forward_s=_sum(pipeline.forward_s, self.forward_s),
                backward_s=_sum(pipeline.backward_s, self.backward_s),
                input_s=_sum(pipeline.input_s, self.backward_s),
                gather_s=self.first_s,
                reduce_s=self.last_s,
                zero=min(self.zero, 1),
                hides=False,
            )
        gathers = self.forward_s if self.zero == 3 else self.first_s
        once = self.first_s if self.zero == 3 else self.forward_s
        reductions = [max(0.0, each - (again if self.zero == 3 else 0.0))
                      for each, again in zip(self.backward_s, gathers, strict=True)]  # fmt: skip
        late = tuple(
            max(0.0, a + b) for a, b in zip(once if self.zero == 3 else (0.0,) * len(once), self.last_s, strict=True)
        )
        forwards = pipeline.forward_s if self.zero == 3 else _sum(pipeline.forward_s, self.forward_s)
        return replace(
            pipeline, forward_s=forwards, gather_s=gathers, reduce_s=tuple(reductions), late_reduce_s=late,
            zero=self.zero, hides=False,
        )  # fmt: skip


def units_of(setting: Setting, configuration: Configuration, held: Sequence[float]) -> Units | None:
    """What was measured, for the units of every virtual stage; None where it was not. `held`: parameters of a device by
    stage, after those that all stages have of a spread vocabulary."""
    measured, mesh = setting.measured, configuration.mesh
    ranks = mesh.dp * mesh.cp
    if measured is None or setting.hides_communication or ranks == 1 or not _plain(configuration):
        return None
    if setting.job.compress != "none":  # what was measured adds gradients up as they are
        return None
    costs = setting.at(configuration, 0).costs(configuration)
    found, start = [], 0
    for stage, count in enumerate(configuration.stage_layers):
        layers = [costs.layers[index].held for index in range(start, start + count)]
        rest = held[stage + 1] - sum(each.total for each in layers)
        start += count
        sizes = [size for each in layers for size in _of_layer(mesh, each)] + ([(ranks, rest)] if rest > 1 else [])
        units = [measured.unit(configuration.zero, *size) for size in sizes]
        found.append([unit for unit in units if unit is not None])
        if len(found[-1]) < len(units):
            return None
    names = ("forward_s", "first_s", "backward_s", "last_s")
    return Units(configuration.zero, *(tuple(_total(units, name) for units in found) for name in names))


def _of_layer(mesh: Mesh, held: Held) -> list[tuple[int, float]]:
    """Ranks and parameters of the units of a layer: experts that ranks share out are a unit of their own, over the
    ranks that hold the same."""
    ranks = mesh.dp * mesh.cp
    if held.expert == 0 or mesh.ep == mesh.etp == 1:
        return [(ranks, held.total)]
    return [(ranks, held.dense), *([(mesh.edp, held.expert)] if mesh.edp > 1 else [])]


def _plain(configuration: Configuration) -> bool:
    """Without what was not measured: copies of groups and of experts, layers that come and go, a spread vocabulary."""
    special = configuration.dp_replicate > 1 or configuration.swap_layers or configuration.spread_vocabulary
    return not special and configuration.expert_replicas == 0


def _total(units: Sequence[UnitTime], name: str) -> float:
    return max(0.0, sum(float(getattr(unit, name)) for unit in units))


def _sum(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True)) if first else ()
