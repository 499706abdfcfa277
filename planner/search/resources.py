"""Resources: clusters with one thing better, to see what a plan waits for and what would be worth buying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...clusters.schema import Cluster, Exceptions, Matrix, NodeGroup

Better = Callable[[Cluster, float], Cluster]


@dataclass(frozen=True, slots=True)
class Resource:
    """Something of a cluster that can be had better by a factor."""

    name: str
    words: str
    better: Better


def _of_groups(change: Callable[[NodeGroup, float], dict[str, Any]]) -> Better:
    def better(cluster: Cluster, factor: float) -> Cluster:
        groups = [group.model_copy(update=change(group, factor)) for group in cluster.node_groups]
        return cluster.model_copy(update={"node_groups": tuple(groups)})

    return better


def _device(change: Callable[[Any, float], dict[str, Any]]) -> Better:
    return _of_groups(lambda group, factor: {"device": group.device.model_copy(update=change(group.device, factor))})


def _compute(device: Any, factor: float) -> dict[str, Any]:
    return {"peak_flops": {dtype: factor * rate for dtype, rate in device.peak_flops.items()}}


def _fabric(group: NodeGroup, factor: float) -> dict[str, Any]:
    fabric = group.fabric
    shared = {size: factor * rate for size, rate in fabric.group_bandwidth_bytes_per_s.items()}
    faster: dict[str, Any] = {
        "bandwidth_bytes_per_s": factor * fabric.bandwidth_bytes_per_s,
        "group_bandwidth_bytes_per_s": shared,
    }
    faster["matrix"] = _matrix(fabric.matrix, factor)
    return {"fabric": fabric.model_copy(update=faster | {"latency_s": fabric.latency_s / factor})}


def _nics(group: NodeGroup, factor: float) -> dict[str, Any]:
    if group.nics is None:
        return {}
    faster = {"rate_bytes_per_s": factor * group.nics.rate_bytes_per_s, "latency_s": group.nics.latency_s / factor}
    return {"nics": group.nics.model_copy(update=faster)}


def _matrix(matrix: Matrix | None, factor: float) -> Matrix | None:
    if matrix is None:
        return None
    return matrix.model_copy(update={"rows": tuple(tuple(factor * rate for rate in row) for row in matrix.rows)})


def _measured(exceptions: Exceptions, factor: float) -> Exceptions:
    """Rates that were measured; factors are of the cards, which are faster already."""

    def times(rate: float | None) -> float | None:
        return None if rate is None else factor * rate

    nodes = [e.model_copy(update={"network_bytes_per_s": times(e.network_bytes_per_s)}) for e in exceptions.nodes]
    paths = [e.model_copy(update={"bandwidth_bytes_per_s": times(e.bandwidth_bytes_per_s)}) for e in exceptions.paths]
    return Exceptions(nodes=tuple(nodes), paths=tuple(paths), matrix=_matrix(exceptions.matrix, factor))


def _network(cluster: Cluster, factor: float) -> Cluster:
    """Cards of the nodes, lines between node groups, and what was measured of both."""
    links = [
        link.model_copy(
            update={"bandwidth_bytes_per_s": factor * link.bandwidth_bytes_per_s, "latency_s": link.latency_s / factor}
        )
        for link in cluster.links
    ]
    return _of_groups(_nics)(cluster, factor).model_copy(
        update={"links": tuple(links), "exceptions": _measured(cluster.exceptions, factor)}
    )


def _host_link(group: NodeGroup, factor: float) -> dict[str, Any]:
    host = group.host.model_copy(update={"device_link_bytes_per_s": factor * group.host.device_link_bytes_per_s})
    return {"host": host}


def _launch(device: Any, factor: float) -> dict[str, Any]:
    faster = device.calibration.model_copy(update={"launch_s": device.calibration.launch_s / factor})
    return {"calibration": faster}


RATES: tuple[Resource, ...] = (
    Resource("compute", "peak FLOP/s of the devices", _device(_compute)),
    Resource(
        "memory_bandwidth",
        "memory bandwidth of the devices",
        _device(lambda device, factor: {"memory_bandwidth_bytes_per_s": factor * device.memory_bandwidth_bytes_per_s}),
    ),
    Resource("launch", "time to launch a kernel", _device(_launch)),
    Resource("fabric", "links inside a node or NVLink domain, bandwidth and latency", _of_groups(_fabric)),
    Resource("network", "network between them, bandwidth and latency", _network),
    Resource("host_link", "links between host and devices", _of_groups(_host_link)),
)
"""What makes a given configuration faster."""

MEMORY = Resource(
    "memory",
    "memory of the devices",
    _device(lambda device, factor: {"memory_bytes": factor * device.memory_bytes}),
)
"""What makes other configurations possible."""

NODES = Resource("nodes", "nodes", _of_groups(lambda group, factor: {"nodes": round(factor * group.nodes)}))
