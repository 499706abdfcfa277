"""Replicas: the data-parallel replicas of a pipeline that differ, because they lie on other devices.

Microbatches of a replica pass through its own devices; replicas meet when gradients are reduced (and, in ZeRO 2 and 3,
when weights are gathered, in every microbatch). A step therefore takes as long as its slowest replica. Replicas whose
devices are in the same node groups are one class, so that there are at most two more than node groups.
"""

from __future__ import annotations

from ..configuration import Configuration
from .setting import Setting, replica_devices

Replica = tuple[Setting, Configuration]
"""The setting in which a replica is priced, and what it computes."""


def replicas(setting: Setting, configuration: Configuration) -> tuple[Replica, ...]:
    """One of every class: on a uniform cluster the setting itself alone."""
    if not setting.is_mixed or setting.replica is not None:
        return ((setting, configuration),)
    mesh = configuration.mesh
    key = mesh.pp, mesh.rank(1, 0, 0, 0), replica_devices(mesh)
    if key not in setting.classes:
        setting.classes[key] = _classes(setting, configuration, *key[1:])
    return tuple((seen, configuration) for seen in setting.classes[key])


def _classes(setting: Setting, configuration: Configuration, per_stage: int, size: int) -> tuple[Setting, ...]:
    """The first block of `size` devices of every class."""
    if per_stage % size:
        return (setting,)
    found: dict[tuple[Setting, ...], Setting] = {}
    for block in _cuts(setting, per_stage, size):
        seen = setting.of_replica(block)
        found.setdefault(tuple(seen.at(configuration, rank) for rank in range(configuration.mesh.pp)), seen)
    return tuple(found.values()) if len(found) > 1 else (setting,)


def _cuts(setting: Setting, per_stage: int, size: int) -> list[int]:
    """Blocks at which the devices of some stage may change: where a node group begins, and behind a block in two."""
    cuts = {0}
    for edge in setting.edges:
        block, inside = divmod(edge % per_stage, size)
        cuts |= {block, block + 1} if inside else {block}
    return sorted(cut for cut in cuts if cut < per_stage // size)
