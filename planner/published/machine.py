"""The cluster that a published row ran on: a bundled one with as many nodes as the row used."""

from __future__ import annotations

from ...clusters.catalogue import load_cluster
from ...clusters.schema import Cluster, Nics
from ...units import parse_rate
from .row import Row
from .shape import NotModelledError

_CLUSTERS = {
    "A100": "dgx-a100-80g",
    "A100-80GB": "dgx-a100-80g",
    "A100-40GB": "dgx-a100-40g",
    "A800": "dgx-a800",
    "H100": "dgx-h100",
    "H100-80GB": "dgx-h100",
    "H200": "dgx-h200",
    "H800": "h800",
    "B200": "dgx-b200",
    "B300": "dgx-b300",
    "GB200": "gb200-nvl72",
    "GB300": "gb300-nvl72",
    "V100": "dgx-1-v100",
    "V100-16GB": "dgx-1-v100",
    "V100-32GB": "jean-zay-v100",
    "MI300X": "mi300x",
}

_NETWORKS: tuple[tuple[str, str | None, dict[str, str]], ...] = (
    ("AWS-class Ethernet/EFA", "p5-h100-efa", {}),
    ("RoCE 1600 Gbps per node", None, {"kind": "roce", "rate": "1600 Gbit/s"}),
    ("IB 200 Gb/s", None, {"kind": "infiniband", "rate": "1600 Gbit/s"}),
    ("IB 400 Gb/s", None, {"kind": "infiniband", "rate": "3200 Gbit/s"}),
    ("IB EDR 100 Gb/s per node", None, {"kind": "infiniband", "rate": "100 Gbit/s"}),
)
"""What `interconnect` says: a cluster of its own, or all network cards of a node together."""

NODE_DEVICES = 8  # assumed where a row does not state it


def row_cluster(row: Row, assumptions: list[str]) -> Cluster:
    """The machine of a row. Raises NotModelledError for a GPU that no bundled cluster has."""
    if row.gpu not in _CLUSTERS:
        raise NotModelledError(f"GPU {row.gpu or 'not stated'}")
    if not row.gpus:
        raise NotModelledError("the number of GPUs is not stated")
    name, network = _CLUSTERS[row.gpu], {}
    for text, other, rate in _NETWORKS:
        if text in row.interconnect:
            name, network = other or name, rate
    cluster = load_cluster(name)
    group = cluster.node_groups[0]
    devices = min(row.gpus, row.gpus_per_node or group.devices_per_node)
    nodes, left = divmod(row.gpus, devices)
    update: dict[str, object] = {"nodes": nodes + (1 if left else 0), "devices_per_node": devices}
    if domain := group.fabric.domain_devices:
        update["fabric"] = group.fabric.model_copy(
            update={"domain_devices": _segment(nodes, domain // devices) * devices}
        )
    if network and group.nics:
        update["nics"] = _nics(group.nics, network)
    if nodes > 1 and not row.interconnect:
        assumptions.append(f"the network of {name}")
    return cluster.model_copy(update={"node_groups": (group.model_copy(update=update),)})


def _segment(nodes: int, most: int) -> int:
    """Nodes that a job takes of each NVLink domain: all of it where they fit in one, else the most that divides it
    evenly (sbatch --segment, as github.com/NVIDIA-NeMo/Megatron-Bridge sets it in scripts/performance)."""
    return next((each for each in range(min(most, nodes), 0, -1) if nodes % each == 0), 1)


def _nics(nics: Nics, network: dict[str, str]) -> Nics:
    """The cards of a row, `rate` that of all of a node's together."""
    rate = parse_rate(network["rate"])
    return nics.model_copy(update={"kind": network["kind"], "count": 1, "rate_bytes_per_s": rate})
