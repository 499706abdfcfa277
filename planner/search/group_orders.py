"""Group orders: in which order whole node groups stand along the ranks.

Groups stay whole: data-parallel groups then lie inside one kind of network as far as stages allow, and pipelines go
across (Holmes, arXiv:2312.03549). Two groups are searched both ways round. Of more, the order is looked for in which
the plan found in the file's order is fastest, and searched too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations

from ..configuration import Configuration
from ..cost.setting import Setting
from ..cost.step import step_s

SEARCHED = 2
"""Node groups of which every order is searched."""
MOST = 4
"""Node groups of which every order is priced."""

RankMap = tuple[int, ...]


def group_orders(setting: Setting) -> list[RankMap]:
    """Rank maps whose search is worth while whatever is found, the order of the file first."""
    if len(setting.topology.sites) != SEARCHED:
        return [setting.rank_map]
    return [setting.rank_map, *list(_orders(setting))[1:]]


def better_order(setting: Setting, configuration: Configuration) -> RankMap | None:
    """Of three groups or four, the order in which a configuration for all devices is fastest; None where it is
    `setting`'s own."""
    groups, world = len(setting.topology.sites), configuration.mesh.world
    if not SEARCHED < groups <= MOST or world < setting.topology.num_devices:
        return None
    least, found = step_s(setting, configuration), None
    for order in _orders(setting):
        step = step_s(setting.mapped(order), configuration)
        if step < least * (1 - 1e-9):
            least, found = step, order
    return found


def _orders(setting: Setting) -> Iterator[RankMap]:
    """Every order of the groups, the setting's own first."""
    topology = setting.topology
    devices = [topology.device(rank) for rank in range(topology.num_devices)]
    parts = [devices[first:stop] for first, stop in pairwise(topology.edges)]
    for chosen in permutations(parts):
        yield tuple(device for part in chosen for device in part)
