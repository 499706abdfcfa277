"""Where ranks run, and why: sentences for people, where nodes are not all alike or ranks are not in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from ..clusters.schema import Cluster, NodeException
from ..clusters.wiring import Wiring, is_uniform
from ..units import format_rate
from .configuration import Configuration
from .cost.setting import Setting
from .cost.step import step_s
from .plan import Proof

NAMED = 8
"""Nodes with exceptions that are named one by one."""
_PROVEN = {
    "every": "The bound holds for every order of the nodes.",
    "groups whole": "The bound holds for every order of the nodes that keeps each node group together.",
    "groups kept": "The bound holds for every order of the nodes that leaves node groups where they are.",
}


def mapping_words(setting: Setting, configuration: Configuration, proof: Proof) -> Iterator[str]:
    """Nothing where ranks fill a cluster without exceptions in the order of its devices."""
    if is_uniform(setting.cluster) and not setting.rank_map:
        return
    yield from _order(setting, configuration)
    yield from _places(setting, configuration)
    if proof.orders:
        yield _PROVEN[proof.orders]


def _order(setting: Setting, configuration: Configuration) -> Iterator[str]:
    """The order, where it is not that of the file, and what it saves."""
    rank_map = setting.rank_map[: configuration.mesh.world]
    in_order = tuple(sorted(rank_map))
    if rank_map != in_order:
        standard, saved = setting.mapped(in_order), ""
        if standard.topology.sites == setting.topology.sites:  # else its stages would be other devices'
            longer = step_s(standard, configuration) / step_s(setting, configuration) - 1
            saved = f"; in the order of the cluster file its step takes {longer:.1%} longer"
        yield f"Ranks run on the nodes in the order {order_words(setting.cluster, rank_map)}{saved}."
    idle = setting.cluster.num_devices - len(rank_map)
    if rank_map and idle and setting.cluster.missing_devices:
        used = "device stays" if idle == 1 else "devices stay"
        yield f"Because devices are missing, {idle} other {used} idle: meshes ask for nodes that are alike."


def order_words(cluster: Cluster, rank_map: Sequence[int]) -> str:
    """The nodes of a map in the order of its ranks, runs of them as ranges: `new/3, new/0 to new/2, ...`."""
    wiring = Wiring(cluster)
    nodes = [node for node, _ in groupby(wiring.node_of[device] for device in rank_map)]
    runs = [[node for _, node in run] for _, run in groupby(enumerate(nodes), key=lambda each: each[1] - each[0])]
    parts = [part for run in runs for part in _runs_of(wiring, run)]
    return ", ".join(parts if len(parts) <= 2 * NAMED else [*parts[:NAMED], "...", *parts[-NAMED:]])


def _runs_of(wiring: Wiring, run: Sequence[int]) -> Iterator[str]:
    """Neighbours of one node group together."""
    for _, same in groupby(run, key=lambda node: wiring.nodes[node].group):
        names = [wiring.nodes[node].name for node in same]
        yield names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _places(setting: Setting, configuration: Configuration) -> Iterator[str]:
    """Which stages the nodes with exceptions run."""
    exceptions = setting.cluster.exceptions.nodes
    stages = _stages(setting, configuration)
    for each in exceptions[:NAMED]:
        own = sorted(stages.get(each.node, ()))
        runs = "runs nothing" if not own else f"runs {_list('pipeline rank', own)}"
        if each.missing or configuration.mesh.pp > 1:
            yield f"Node {each.node} ({_what(each)}) {runs}."
    for path in setting.cluster.exceptions.paths[:NAMED]:
        sides = [stages.get(node, set()) for node in path.between]
        if configuration.mesh.pp > 1 and all(sides):
            apart = " and ".join(_list("pipeline rank", sorted(side)) for side in sides)
            yield f"The slow path between {path.between[0]} and {path.between[1]} lies between {apart}."


def _stages(setting: Setting, configuration: Configuration) -> dict[str, set[int]]:
    """Pipeline ranks by node."""
    per_stage, found = configuration.mesh.rank(1, 0, 0, 0), dict[str, set[int]]()
    groups = setting.cluster.node_groups
    for rank in range(configuration.mesh.world):
        place = setting.topology.place(rank)
        found.setdefault(f"{groups[place.group].name}/{place.node}", set()).add(rank // per_stage)
    return found


def _list(what: str, numbers: Sequence[int]) -> str:
    """`device 3`, `devices 1, 5 to 7`: ascending."""
    steps = groupby(enumerate(sorted(numbers)), key=lambda each: each[1] - each[0])
    runs = [[number for _, number in run] for _, run in steps]
    parts = ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"{what}{'s' if len(numbers) > 1 else ''} {parts}"


def _what(each: NodeException) -> str:
    """`network 0.25x`, `without device 3`, `missing`."""
    said = []
    if each.network_factor is not None:
        said.append(f"network {each.network_factor:g}x")
    if each.network_bytes_per_s is not None:
        said.append(f"network {format_rate(each.network_bytes_per_s)}")
    if each.fabric_factor is not None:
        said.append(f"fabric {each.fabric_factor:g}x")
    if each.missing == "all":
        said.append("missing")
    elif each.missing:
        said.append(f"without {_list('device', each.missing)}")
    return ", ".join(said)
