"""What was found of links, written into a cluster as its file has it: costs, cards, node groups, exceptions.

The device of worker i stays device i. Hosts are nodes. Racks and groups of cards become node groups where their hosts
stand side by side; racks in any other order become a matrix, of usual rates so that only what is slow differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from statistics import median
from typing import Any

from .links_fit import link_costs, rounded
from .links_found import Links, read_links
from .links_shapes import Ranks
from .links_topology import Topology
from .parts import Found

Mapped = dict[str, Any]


def assemble(cluster: Mapped, found: Found) -> None:
    """Links of `cluster`, whose node groups (by their devices) become more where there are several kinds of hosts."""
    links = read_links(found.of("links"))
    if links is None:
        return
    groups: list[Mapped] = cluster["node_groups"]
    inside = [row for row in links.rows if row["scope"] == "inside"]
    for fabric in (group["fabric"] for group in groups if inside):
        sustained = fabric["bandwidth"] * fabric.get("efficiency", 0.8)
        fabric["costs"] = link_costs(inside, lambda _, sustained=sustained: sustained)
    if len(links.hosts) > 1:
        _write_hosts(cluster, links, _by_device(found, links))


def _by_device(found: Found, links: Links) -> list[Ranks]:
    """Hosts of each node group that the cluster has already."""
    groups = [set(ranks) for ranks in found.groups]
    return [tuple(index for index, ranks in enumerate(links.hosts) if ranks[0] in group) for group in groups]


def _write_hosts(cluster: Mapped, links: Links, by_device: Sequence[Ranks]) -> None:
    topology, hosts = links.topology, links.hosts
    if [*chain.from_iterable(hosts)] != sorted(chain.from_iterable(hosts)):
        raise ValueError("the workers of a host must have numbers in a row")
    kinds = _kinds(topology, by_device)
    size = {"devices_per_node": max(map(len, hosts))}
    of = {name: cluster["node_groups"][_place(kind, by_device)] | size for name, kind in kinds.items()}
    costs = link_costs([row for row in links.rows if row["scope"] == "across"], links.bandwidth)
    cluster["node_groups"] = [
        of[name] | {"name": name, "nodes": len(kind), "nics": _nics(of[name], links, kind, costs)}
        for name, kind in kinds.items()
    ]
    names = {host: f"{name}/{place}" for name, kind in kinds.items() for place, host in enumerate(kind)}
    cluster["links"] = [_link(links, a, b) for a, b in _every_two(list(kinds.items()))]
    cluster["exceptions"] = {key: value for key, value in _exceptions(links, kinds, names).items() if value}


def _place(kind: Ranks, by_device: Sequence[Ranks]) -> int:
    """The node group that hosts of one kind come from."""
    return next(index for index, hosts in enumerate(by_device) if kind[0] in hosts)


def _kinds(topology: Topology, by_device: Sequence[Ranks] = ()) -> dict[str, Ranks]:
    """Hosts of each node group, by name, in the order of their numbers: racks, cards and kinds of devices where they
    stand in a row."""
    together = {tuple(sorted(set(rack) & set(group))) for rack in topology.racks for group in topology.groups}
    if len(by_device) > 1:  # with devices of their own they cannot be one group, in whatever order they stand
        together = {tuple(sorted(set(part) & set(hosts))) for part in together for hosts in by_device}
    parts = sorted(part for part in together if part)
    if len(parts) > 1 and (len(by_device) > 1 or all(_in_a_row(part) for part in parts)):
        name = "rack" if len(topology.racks) > 1 else "cards" if len(topology.groups) > 1 else "nodes"
        return {f"{name}-{index}": part for index, part in enumerate(parts)}
    return {"hosts": tuple(sorted(chain.from_iterable(topology.groups)))}


def _in_a_row(part: Ranks) -> bool:
    return all(after == before + 1 for before, after in pairwise(part))


def _nics(group: Mapped, links: Links, kind: Ranks, costs: list[Mapped]) -> Mapped:
    """One card for all that a host has: together they sustain what was measured."""
    slow = {slow.hosts[0] for slow in links.topology.slow_hosts}
    rate = median([links.best[host] for host in kind if host not in slow] or [links.best[host] for host in kind])
    known = group.get("nics") or {}
    return {
        "kind": known.get("kind", "ethernet"),
        "count": 1,
        "rate": rounded(rate),
        "latency": rounded(links.latency_s),
        "efficiency": 1.0,
        "costs": costs,
    }


def _every_two(kinds: Sequence[tuple[str, Ranks]]) -> list[tuple[tuple[str, Ranks], tuple[str, Ranks]]]:
    return [(a, b) for index, a in enumerate(kinds) for b in kinds[index + 1 :]]


def _link(links: Links, a: tuple[str, Ranks], b: tuple[str, Ranks]) -> Mapped:
    """Between two node groups: what all that can cross have at once, else no less than the cards of either."""
    crossing = links.uplink(a[1], b[1])
    rate = crossing or min(sum(links.best[host] for host in kind) for _, kind in (a, b))
    names = [a[0], b[0]]
    return {"between": names, "kind": "ethernet", "bandwidth": rounded(rate), "latency": rounded(links.latency_s)}


def _exceptions(links: Links, kinds: Mapping[str, Ranks], names: Mapping[int, str]) -> Mapped:
    topology, most = links.topology, max(map(len, links.hosts))
    nodes: list[Mapped] = [
        {"node": names[host], "missing": list(range(len(links.hosts[host]), most))}
        for host in names
        if len(links.hosts[host]) < most
    ]
    if len(kinds) == 1 and (len(topology.racks) > 1 or len(topology.groups) > 1):
        return {"nodes": nodes, "matrix": {"unit": "B/s", "rows": _matrix(links)}}
    nodes += [{"node": names[slow.hosts[0]], "network": rounded(slow.rate)} for slow in topology.slow_hosts]
    paths = [
        {"between": [names[host] for host in slow.hosts], "bandwidth": rounded(slow.rate)}
        for slow in topology.slow_links
    ]
    return {"nodes": nodes, "paths": paths}


def _matrix(links: Links) -> list[list[float]]:
    """Usual rates between hosts, and of slow hosts and links what was measured."""
    count = len(links.hosts)
    return [[rounded(links.usual(a, b)) if a != b else 0.0 for b in range(count)] for a in range(count)]
