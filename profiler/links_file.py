"""What was found of links, written into a cluster as its file has it: costs, cards, node groups, exceptions.

The device of worker i stays device i. Hosts are nodes. Racks and groups of cards become node groups where their hosts
stand side by side; racks in any other order become a matrix, of usual rates so that only what is slow differs. So do
GPUs of a host, where a pair of them is slow or they are in several parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations, pairwise
from statistics import median
from typing import Any

from ..clusters.schema import Fabric
from ..units import significant
from .links_fit import link_costs
from .links_found import Links, read_links
from .links_shapes import Ranks
from .links_topology import Topology
from .parts import Found

Mapped = dict[str, Any]


def assemble(cluster: Mapped, found: Found) -> None:
    """Links of a cluster whose node groups hold `found.groups`; they become more where their hosts differ in links."""
    results = found.of("links")
    _note(cluster, results)
    links = read_links(results)
    if links is None:
        return
    inside = [row for row in links.rows if row["scope"] == "inside"]
    for group in cluster["node_groups"] if inside else ():
        fabric = Fabric.model_validate(group["fabric"])
        rate = fabric.efficiency * fabric.bandwidth_bytes_per_s
        sustained = {tuple(row["ranks"]): rate for row in inside}
        group["fabric"] = group["fabric"] | {"costs": link_costs(inside, sustained)}
    for ranks, group in zip(found.groups, cluster["node_groups"], strict=True):
        if group["device"]["kind"] != "cpu" and tuple(ranks) in links.hosts:
            group["fabric"] = group["fabric"] | _between_devices(links.of_workers(tuple(ranks)))
    if len(links.hosts) > 1:
        _write_hosts(cluster, links, found)


def _between_devices(workers: Links) -> Mapped:
    """The matrix of a host's devices, where these are not all joined alike."""
    found = workers.topology
    alike = len(found.racks) == 1 and not found.slow_hosts and not found.slow_links
    return {} if alike else {"matrix": {"unit": "B/s", "rows": _matrix(workers)}}


def _note(cluster: Mapped, results: Sequence[Mapping[str, Any]]) -> None:
    """What did not answer, in the words of whoever waited for it."""
    told = cluster.get("measured", {}).get("notes", [])
    whys = dict.fromkeys(why for result in results for why in result.get("notes", ()))
    told += [{"part": "links", "what": "what failed", "why": why} for why in whys]


def _write_hosts(cluster: Mapped, links: Links, found: Found) -> None:
    hosts, old = links.hosts, cluster["node_groups"]
    if [*chain.from_iterable(hosts)] != sorted(chain.from_iterable(hosts)):
        raise ValueError("the workers of a host must have numbers in a row")
    of_rank = {rank: index for index, ranks in enumerate(found.groups) for rank in ranks}
    kinds = _kinds(links.topology, [of_rank[host[0]] for host in hosts], [group["name"] for group in old])
    across = [row for row in links.rows if row["scope"] == "across"]
    costs = link_costs(across, {tuple(row["ranks"]): links.bandwidth(row["ranks"]) for row in across})
    groups = {name: old[of_rank[hosts[kind[0]][0]]] for name, kind in kinds.items()}
    cluster["node_groups"] = [
        groups[name]
        | {"name": name, "nodes": len(kind), "devices_per_node": max(map(len, hosts))}
        | {"nics": _nics(groups[name], links, kind, costs)}
        for name, kind in kinds.items()
    ]
    names = {host: f"{name}/{place}" for name, kind in kinds.items() for place, host in enumerate(kind)}
    cluster["links"] = [_link(links, a, b) for a, b in combinations(kinds.items(), 2)]
    exceptions = {key: value for key, value in _exceptions(links, kinds, names).items() if value}
    cluster["exceptions"] = cluster.get("exceptions", {}) | exceptions


def _kinds(topology: Topology, old: Sequence[int], names: Sequence[str]) -> dict[str, Ranks]:
    """Hosts of each node group, by name, in the order of their numbers: those of one group of devices (`old`), rack and
    kind of cards, where they stand in a row. Raises ValueError where groups of devices do not."""
    devices = [{host for host, group in enumerate(old) if group == index} for index in range(len(names))]
    parts = sorted(_crossed(devices, topology.racks, topology.groups))
    if not all(_in_a_row(part) for part in parts):
        parts = sorted(_crossed(devices))
    if not all(_in_a_row(part) for part in parts):
        raise ValueError("nodes of one kind must stand side by side")
    if len(parts) == len(names):
        return dict(zip(names, parts, strict=True))
    what = "rack" if len(topology.racks) > 1 else "cards"
    return {f"{what}-{index}": part for index, part in enumerate(parts)}


def _crossed(*ways: Iterable[Iterable[int]]) -> set[Ranks]:
    """The parts of hosts that several ways to divide them make together."""
    found = {tuple(sorted(each)) for each in ways[0]}
    for way in ways[1:]:
        found = {tuple(sorted(set(part) & set(other))) for part in found for other in way}
    return {part for part in found if part}


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
        "rate": significant(rate),
        "latency": significant(links.latency_s),
        "efficiency": 1.0,
        "costs": costs,
    }


def _link(links: Links, a: tuple[str, Ranks], b: tuple[str, Ranks]) -> Mapped:
    """Between two node groups: what all that can cross have at once, else no less than the cards of either."""
    crossing = links.uplink(a[1], b[1])
    rate = crossing or min(sum(links.best[host] for host in kind) for _, kind in (a, b))
    names = [a[0], b[0]]
    return {
        "between": names,
        "kind": "ethernet",
        "bandwidth": significant(rate),
        "latency": significant(links.latency_s),
    }


def _exceptions(links: Links, kinds: Mapping[str, Ranks], names: Mapping[int, str]) -> Mapped:
    topology, most = links.topology, max(map(len, links.hosts))
    nodes: dict[int, Mapped] = {
        host: {"node": names[host], "missing": list(range(len(links.hosts[host]), most))}
        for host in names
        if len(links.hosts[host]) < most
    }
    alike = _crossed(topology.racks, topology.groups)
    if any(not any(set(kind) <= set(part) for part in alike) for kind in kinds.values()):
        return {"nodes": [*nodes.values()], "matrix": {"unit": "B/s", "rows": _matrix(links)}}
    for slow in topology.slow_hosts:
        (host,) = slow.hosts
        nodes[host] = nodes.get(host, {"node": names[host]}) | {"network": significant(slow.rate)}
    paths = [
        {"between": [names[host] for host in slow.hosts], "bandwidth": significant(slow.rate)}
        for slow in topology.slow_links
    ]
    return {"nodes": [nodes[host] for host in sorted(nodes)], "paths": paths}


def _matrix(links: Links) -> list[list[float]]:
    """Usual rates between hosts, and of slow hosts and links what was measured."""
    count = len(links.hosts)
    return [[significant(links.usual(a, b)) if a != b else 0.0 for b in range(count)] for a in range(count)]
