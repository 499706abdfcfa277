"""Group orders: in which order whole node groups stand along the ranks.

Groups stay whole: data-parallel groups then lie inside one kind of network as far as stages allow, and pipelines go
across (Holmes, arXiv:2312.03549). Two groups are searched both ways round.
"""

from __future__ import annotations

from ..cost.setting import Setting

SEARCHED = 2
"""Node groups of which every order is searched."""


def group_orders(setting: Setting) -> list[tuple[int, ...]]:
    """Rank maps, the order of the file first."""
    topology = setting.topology
    devices = [topology.device(rank) for rank in range(topology.num_devices)]
    parts = [devices[first:stop] for first, stop in zip(topology.edges, topology.edges[1:], strict=False)]
    if len(parts) != SEARCHED:
        return [setting.rank_map]
    return [setting.rank_map, tuple(device for part in reversed(parts) for device in part)]
