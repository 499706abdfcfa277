"""The cluster that a published row ran on: a bundled one with as many nodes as the row used."""

from __future__ import annotations

import re

from ...clusters.catalogue import load_cluster
from ...clusters.devices import device_mapping
from ...clusters.schema import Cluster, Device, Nics
from ...units import parse_rate
from .row import Row
from .shape import NotModelledError

_CLUSTERS: tuple[tuple[str, str], ...] = (
    ("gb300", "gb300-nvl72"),
    ("gb200", "gb200-nvl72"),
    ("b300", "dgx-b300"),
    ("b200", "dgx-b200"),
    ("h800", "h800"),
    ("h200", "dgx-h200"),
    (r"\bh100", "dgx-h100"),
    ("a800", "dgx-a800"),
    ("a100.*40 ?gb", "dgx-a100-40g"),
    ("a100", "dgx-a100-80g"),
    ("v100.*32 ?gb", "dgx-2h-v100"),
    ("v100", "dgx-1-v100"),
    ("mi300x", "mi300x"),
    ("mi250x", "mi250x-frontier"),
    ("4090", "rtx4090-ethernet"),
)
"""What `gpu` says, as people write it (A100-80GB, NVIDIA H100 SXM): first match wins."""

_NETWORKS: tuple[tuple[str, str | None, dict[str, str]], ...] = (
    ("AWS-class Ethernet/EFA", "p5-h100-efa", {}),
    ("RoCE 1600 Gbps per node", None, {"kind": "roce", "rate": "1600 Gbit/s"}),
    ("IB 200 Gb/s", None, {"kind": "infiniband", "rate": "1600 Gbit/s"}),
    ("IB 400 Gb/s", None, {"kind": "infiniband", "rate": "3200 Gbit/s"}),
    ("IB EDR 100 Gb/s per node", None, {"kind": "infiniband", "rate": "100 Gbit/s"}),
)
"""What `interconnect` says: a cluster of its own, or all network cards of a node together."""

_UNNAMED_NETWORKS = {"libai": "IB EDR 100 Gb/s per node"}
"""Where a source names no network: LiBai's benchmark is by the authors of DLPerf, whose V100 nodes have one card."""

_NODES_OF_FOUR = "jean-zay-v100"
"""The V100 nodes of four: those of BigScience."""

NODE_DEVICES = 8  # assumed where a row does not state it


def row_cluster(row: Row, assumptions: list[str]) -> Cluster:
    """The machine of a row. Raises NotModelledError for a GPU that no bundled cluster has."""
    if not row.gpus:
        raise NotModelledError("the number of GPUs is not stated")
    name, network = _named(row)
    cluster = load_cluster(name)
    group = cluster.node_groups[0]
    devices = min(row.gpus, row.gpus_per_node or group.devices_per_node)
    nodes, left = divmod(row.gpus, devices)
    if row.gpu == "V100":
        assumptions.append("V100 with 32 GB")  # libai's runs of that name hold more than 16 GB
    update: dict[str, object] = {
        "nodes": nodes + (1 if left else 0),
        "devices_per_node": devices,
        "device": _device(row, group.device),
    }
    if domain := group.fabric.domain_devices:
        update["fabric"] = group.fabric.model_copy(
            update={"domain_devices": _segment(nodes, domain // devices) * devices}
        )
    if network and group.nics:
        update["nics"] = _nics(group.nics, network)
    if nodes > 1 and not row.interconnect:
        assumptions.append(f"the network of {name}")
    return cluster.model_copy(update={"node_groups": (group.model_copy(update=update),)})


def _named(row: Row) -> tuple[str, dict[str, str]]:
    """The bundled cluster, and what is known of its network beside it."""
    name, network = _bundled(row), {}
    if row.gpus_per_node == 4 and row.gpu.startswith("V100-"):
        name = _NODES_OF_FOUR
    unnamed = next((text for source, text in _UNNAMED_NETWORKS.items() if source in row.source.lower()), "")
    for text, other, rate in _NETWORKS:
        if text in (row.interconnect or unnamed):
            name, network = other or name, rate
    return name, network


def _bundled(row: Row) -> str:
    memory = f" {row.gpu_mem_gb:.0f}GB" if row.gpu_mem_gb and "gb" not in row.gpu.lower()[2:] else ""
    text = f"{row.gpu}{memory}".lower()
    found = next((name for pattern, name in _CLUSTERS if re.search(rf"{pattern}(?!\d)", text)), None)
    if found is None:
        raise NotModelledError(f"GPU {row.gpu or 'not stated'}")
    return found


def _device(row: Row, device: Device) -> Device:
    """The device with the memory that the row states, and in TF32 with fp32 products at that rate."""
    if row.gpu == "V100-16GB":
        device = Device.model_validate(device_mapping("v100-sxm-16gb"))
    elif row.gpu == "V100":
        device = Device.model_validate(device_mapping("v100-sxm-32gb"))
    if "tf32" not in row.precision.lower():
        return device
    return device.model_copy(update={"peak_flops": device.peak_flops | {"fp32": device.peak_flops["tf32"]}})


def _segment(nodes: int, most: int) -> int:
    """Nodes that a job takes of each NVLink domain: all of it where they fit in one, else the most that divides it
    evenly (sbatch --segment, as github.com/NVIDIA-NeMo/Megatron-Bridge sets it in scripts/performance)."""
    return next((each for each in range(min(most, nodes), 0, -1) if nodes % each == 0), 1)


def _nics(nics: Nics, network: dict[str, str]) -> Nics:
    """The cards of a row, `rate` that of all of a node's together."""
    rate = parse_rate(network["rate"])
    return nics.model_copy(update={"kind": network["kind"], "count": 1, "rate_bytes_per_s": rate})
