"""Replicas: the data-parallel replicas of a pipeline that differ, because they lie on other devices.

Microbatches of a replica pass through its own devices; replicas meet when gradients are reduced (and, in ZeRO 2 and 3,
when weights are gathered, in every microbatch). A step therefore takes as long as its slowest replica. Replicas whose
devices are in the same node groups are one class, so that there are about twice as many as node groups. Of a class the
rank with the most microbatches counts: each microbatch more takes longer and none holds less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from ..configuration import Configuration
from .setting import Setting, replica_devices

Replica = tuple[Setting, Configuration]
"""The setting in which a replica is priced, and what it computes."""


@dataclass(frozen=True, slots=True)
class ReplicaClass:
    """Replicas of one class: the setting of one of them, and which blocks of `replica_devices` of a stage they are."""

    setting: Setting
    blocks: tuple[range, ...]


def replicas(setting: Setting, configuration: Configuration) -> tuple[Replica, ...]:
    """One of every class: on a uniform cluster the setting itself alone."""
    if not setting.is_mixed or setting.replica is not None:
        return ((setting, configuration),)
    found = classes(setting, configuration)
    if len(found) == 1 or not configuration.shares:
        return tuple((each.setting, configuration) for each in found)
    return tuple((each.setting, replace(configuration, microbatches=_most(configuration, each))) for each in found)


def _most(configuration: Configuration, replicas: ReplicaClass) -> int:
    """Microbatches of the rank of a class that has most."""
    return max(configuration.shares[rank] for rank in replica_ranks(configuration, replicas))


def replica_ranks(configuration: Configuration, replicas: ReplicaClass) -> Iterator[int]:
    """The dp ranks of a class: of each block one, or several whose experts are one."""
    mesh = configuration.mesh
    each = max(1, replica_devices(mesh) // (mesh.cp * mesh.tp))
    for blocks in replicas.blocks:
        yield from range(blocks.start * each, min(blocks.stop * each, mesh.dp))


def classes(setting: Setting, configuration: Configuration) -> tuple[ReplicaClass, ...]:
    """Classes of replicas, in the order of their first ones."""
    mesh = configuration.mesh
    key = mesh.pp, mesh.rank(1, 0, 0, 0), replica_devices(mesh)
    if key not in setting.classes:
        setting.classes[key] = _classes(setting, configuration, *key[1:])
    return setting.classes[key]


def _classes(setting: Setting, configuration: Configuration, per_stage: int, size: int) -> tuple[ReplicaClass, ...]:
    if per_stage % size:
        return (ReplicaClass(setting, (range(per_stage),)),)
    found: dict[tuple[Setting, ...], tuple[Setting, list[range]]] = {}
    for blocks in _parts(setting, per_stage, size):
        seen = setting.of_replica(blocks.start)
        views = tuple(seen.at(configuration, rank) for rank in range(configuration.mesh.pp))
        found.setdefault(views, (seen, []))[1].append(blocks)
    if len(found) == 1:
        return (ReplicaClass(setting, (range(per_stage // size),)),)
    return tuple(ReplicaClass(seen, tuple(parts)) for seen, parts in found.values())


def _parts(setting: Setting, per_stage: int, size: int) -> list[range]:
    """Runs of blocks whose devices are in the same node groups: a new one begins where a node group does in some stage,
    and behind a block that is in two."""
    cuts = {0}
    for edge in setting.edges:
        block, inside = divmod(edge % per_stage, size)
        cuts |= {block, block + 1} if inside else {block}
    starts, count = sorted(cuts), per_stage // size
    return [range(first, min(stop, count)) for first, stop in pairwise([*starts, count]) if first < min(stop, count)]
