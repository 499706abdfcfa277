"""Stragglers: what one slow device, link or node costs the whole step, wherever it is.

The event interpreter plays the pipeline that holds the straggler; its replicas wait for it in the collectives. Where
replicas lie on different devices the straggler is in the slowest of them.

    device, rank   the compute of one pipeline rank takes the factor longer: tensor- and context-parallel peers wait for
                   a slow device in every layer (the exchanges inside a layer are slowed with it)
    link           transfers between one pipeline rank and the next, both ways
    node           the network cards of one node: a ring is as slow as its slowest hop, so every group with a member
                   there is priced on a network as slow; what does not leave the node stays
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...clusters.topology import Topology
from ...clusters.wiring import Wiring
from ...errors import InputError
from ..configuration import Configuration
from ..cost.step import slowest_replica, work_of
from ..schedule import build
from .engine import step_time
from .scenario import Scenario
from .simulation import Simulation
from .straggler import Part, StragglerModel
from .work import Slowness, Work


@dataclass(frozen=True, slots=True)
class Slow:
    """One place that may be slow."""

    place: str
    asked: bool
    step_time_s: float
    loss: float  # 0.1: the step takes 10% longer


@dataclass(frozen=True, slots=True)
class Stragglers:
    """A straggler in each place where it may be; `step_time_s` is without one."""

    part: Part
    slow: float
    step_time_s: float
    places: tuple[Slow, ...]

    def table(self) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
        """Rows and head, as people read them."""
        rows: list[tuple[str, ...]] = [("none", f"{self.step_time_s:.4g} s", "0.0%", "")]
        for place in self.places:
            mark = "asked" if place.asked else ""
            rows.append((place.place, f"{place.step_time_s:.4g} s", f"{place.loss:.1%}", mark))
        return rows, (f"slow by {self.slow:g}x", "step", "longer", "")

    def to_json(self) -> dict[str, Any]:
        """Every place with its step time and loss."""
        places = [
            {"place": each.place, "asked": each.asked, "step_time_s": each.step_time_s, "loss": each.loss}
            for each in self.places
        ]
        return {"part": self.part, "slow": self.slow, "step_time_s": self.step_time_s, "places": places}


Place = tuple[str, Sequence[int], tuple[int, ...]]
"""What it is called, the numbers of the part that are there, and the pipeline ranks."""


def stragglers(simulation: Simulation, model: StragglerModel) -> Stragglers:
    """A straggler in each place, the one asked for marked. Raises InputError where there is no such place."""
    part = model.part or "rank"
    places = _places(simulation.scenario, part)
    asked = {number for number, (_, numbers, _) in enumerate(places) if model.number in numbers}
    if not asked:
        known = [number for _, numbers, _ in places for number in numbers]
        rule = f"the plan has no such {part}" if known else f"a plan of one pipeline rank has no {part}"
        fix = f"{part}={min(known, key=lambda each: abs(each - model.number))}" if known else "rank=0"
        raise InputError.single("straggler", f"--straggler {part}", model.number, rule, fix)
    network = _on_slow_network(simulation, model.slow) if part == "node" else simulation.work
    none = simulation.step_time_s
    found = []
    for number, (name, _, ranks) in enumerate(places):
        step_s = slowed_s(simulation, _slowness(simulation, part, ranks, model.slow, network))
        found.append(Slow(name, number in asked, step_s, step_s / none - 1))
    return Stragglers(part, model.slow, none, tuple(found))


def slowed_s(simulation: Simulation, slow: Slowness, microbatches: int | None = None) -> float:
    """Seconds of a step with a straggler, and with another number of microbatches where one is given."""
    configuration = simulation.played
    if microbatches is not None:
        configuration = replace(configuration, microbatches=microbatches)
    return step_time(build(configuration), replace(simulation.work, slow=slow)).total_s


def slow_rank(ranks: int, rank: int, slow: float) -> Slowness:
    """The compute of one pipeline rank."""
    return Slowness(ranks=_factors(ranks, [rank], [slow]))


def _places(scenario: Scenario, part: Part) -> list[Place]:
    """Places that differ: what they are called, the numbers of the part that are there, and the pipeline ranks."""
    mesh = scenario.configuration.mesh
    of_rank = mesh.world // mesh.pp
    if part == "link":
        last = mesh.pp if _wraps(scenario.configuration) else mesh.pp - 1
        names = [f"link {rank}: ranks {rank} and {(rank + 1) % mesh.pp}" for rank in range(last)]
        return [(name, [rank], (rank,)) for rank, name in enumerate(names)]
    if part == "node":
        return _nodes(scenario, of_rank)
    found: list[Place] = []
    topology = Topology(scenario.cluster, scenario.rank_map)
    for rank in range(mesh.pp):
        devices = [topology.device(each) for each in range(rank * of_rank, (rank + 1) * of_rank)]
        name = f"pipeline rank {rank}: devices {_ranges(devices)}"
        found.append((name, devices if part == "device" else [rank], (rank,)))
    return found


def _ranges(numbers: Sequence[int]) -> str:
    """`8-15, 0-7`."""
    steps = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    runs = [[each for _, each in run] for _, run in steps]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _wraps(configuration: Configuration) -> bool:
    """Whether anything is sent between the last rank and the first."""
    places = [configuration.rank_of(stage) for stage in range(len(configuration.stage_layers))]
    return (configuration.mesh.pp - 1, 0) in itertools.pairwise(places)


def _nodes(scenario: Scenario, of_rank: int) -> list[Place]:
    """Runs of nodes that hold devices of the same pipeline ranks; nodes are counted over the whole cluster."""
    topology, node_of = Topology(scenario.cluster, scenario.rank_map), Wiring(scenario.cluster).node_of
    by_node: dict[int, set[int]] = {}
    for rank in range(scenario.configuration.mesh.world):
        by_node.setdefault(node_of[topology.device(rank)], set()).add(rank // of_rank)
    found: list[Place] = []
    for ranks, run in itertools.groupby(sorted(by_node), lambda node: tuple(sorted(by_node[node]))):
        numbers = list(run)
        nodes = f"node {numbers[0]}" if len(numbers) == 1 else f"a node of {_ranges(numbers)}"
        found.append((f"{nodes}: pipeline rank {_ranges(ranks)}", numbers, ranks))
    return found


def _on_slow_network(simulation: Simulation, slow: float) -> Work:
    """The work of the step where every network card is as slow."""
    scenario = simulation.scenario
    groups = tuple(
        group
        if group.nics is None
        else group.model_copy(
            update={"nics": group.nics.model_copy(update={"rate_bytes_per_s": group.nics.rate_bytes_per_s / slow})}
        )
        for group in scenario.cluster.node_groups
    )
    cluster = scenario.cluster.model_copy(update={"node_groups": groups})
    return work_of(*slowest_replica(replace(scenario, cluster=cluster).setting, scenario.configuration))


def _slowness(simulation: Simulation, part: Part, ranks: tuple[int, ...], slow: float, network: Work) -> Slowness:
    count = simulation.scenario.configuration.mesh.pp
    if part == "link":
        return Slowness(links=_factors(count, ranks, [slow]))
    if part != "node":
        return Slowness(ranks=_factors(count, ranks, [slow]))
    work, data, compute = simulation.work, [], []
    for rank in ranks:
        mine = slice(rank, None, count)
        slower, usual = (each.forward_s[mine] + each.backward_s[mine] for each in (network, work))
        compute.append(_ratio(slower, usual))
        slower, usual = (each.gather_s[mine] + each.reduce_s[mine] for each in (network, work))
        data.append(_ratio(slower, usual))
    touched = sorted({link % count for rank in ranks for link in (rank - 1, rank)})
    return Slowness(
        ranks=_factors(count, ranks, compute),
        data=_factors(count, ranks, data),
        links=_factors(count, touched, [_ratio((network.transfer_s,), (work.transfer_s,))]),
    )


def _ratio(slow_s: tuple[float, ...], usual_s: tuple[float, ...]) -> float:
    return math.fsum(slow_s) / math.fsum(usual_s) if math.fsum(usual_s) else 1.0


def _factors(count: int, places: Iterable[int], factors: list[float]) -> tuple[float, ...]:
    """One factor a rank: 1 but in the places; one factor may serve all of them."""
    chosen = list(places)
    at = dict(zip(chosen, factors if len(factors) == len(chosen) else factors * len(chosen), strict=True))
    return tuple(at.get(rank, 1.0) for rank in range(count))
