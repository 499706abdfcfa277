"""Small clusters: even ones, and such that have a slow or a missing part."""

from __future__ import annotations

from meshwright.clusters import Cluster

FABRIC = {"kind": "nvswitch", "bandwidth": "400 GB/s", "latency": "3 us", "efficiency": 0.75}
NICS = {"kind": "infiniband", "count": 2, "rate": "200 Gbit/s", "latency": "9 us", "efficiency": 0.8}
HOST = {"memory": "1 TB", "cores": 64, "device_link": "25 GB/s"}


def node_group(name, nodes, devices, **changes):
    base = {"name": name, "nodes": nodes, "devices_per_node": devices, "device": "h100-sxm-80gb"}
    return base | {"fabric": FABRIC, "nics": NICS, "host": HOST} | changes


def cluster_of(*groups, links=(), exceptions=None):
    given = {"name": "test", "node_groups": groups, "links": links, "exceptions": exceptions or {}}
    return Cluster.model_validate(given)


def two_sites(nodes_a=2, nodes_b=2, bandwidth="100 Gbit/s", exceptions=None):
    roce = NICS | {"kind": "roce", "rate": "100 Gbit/s", "latency": "12 us"}
    link = {"between": ["a", "b"], "kind": "ethernet", "bandwidth": bandwidth, "latency": "1 ms"}
    groups = node_group("a", nodes_a, 4), node_group("b", nodes_b, 4, nics=roce)
    return cluster_of(*groups, links=[link], exceptions=exceptions)


def single(nodes=4, devices=4, exceptions=None, **changes):
    return cluster_of(node_group("only", nodes, devices, **changes), exceptions=exceptions)


MEASURED = [[0, 40, 30, 20], [38, 0, 9, 40], [30, 9, 0, 0], [20, 40, 0, 0]]  # GB/s; nobody measured 2 to 3
INSIDE = [[0, 200, 90, 90], [200, 0, 90, 90], [90, 90, 0, 0], [90, 90, 0, 0]]
UNEVEN = {
    "slow host": single(exceptions={"nodes": [{"node": "only/2", "network_factor": 0.25, "fabric_factor": 0.5}]}),
    "slow card": single(exceptions={"nodes": [{"node": "only/0", "network": "4 GB/s"}]}),
    "slow path": single(exceptions={"paths": [{"between": ["only/3", "only/1"], "factor": 0.1}]}),
    "measured": single(exceptions={"matrix": {"rows": MEASURED}}),
    "pairs of devices": single(fabric=FABRIC | {"matrix": {"rows": INSIDE}}),
    "slow host of a site": two_sites(exceptions={"nodes": [{"node": "b/1", "network": "4 GB/s"}]}),
    "slow path between sites": two_sites(exceptions={"paths": [{"between": ["b/0", "a/0"], "bandwidth": "1 GB/s"}]}),
}

SMALL = {
    "one": single(),
    "oversubscribed": single(oversubscription=4.0),
    "wide domain": single(nodes=4, devices=2, fabric=FABRIC | {"domain_devices": 4}),
    "two sites": two_sites(),
    **UNEVEN,
}
