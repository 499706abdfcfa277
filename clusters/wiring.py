"""Wiring: the nodes of a cluster one by one, with everything that makes them differ from what their group says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from .paths import Path, domain_devices, fabric_path, network_path, worst
from .schema import Cluster, NodeException, NodeGroup


@dataclass(frozen=True, slots=True)
class Node:
    """One node. `network` is what one of its devices sustains while all of them send; None without cards."""

    name: str  # group/number
    group: int
    domain: int  # counted over the whole cluster
    devices: tuple[int, ...]  # numbers of those that can be used
    network: Path | None
    fabric_factor: float = 1.0


class Wiring:
    """A checked cluster as single nodes, and the path between any two of them."""

    def __init__(self, cluster: Cluster, nodes: Iterable[Node] | None = None) -> None:
        """With `nodes` of its own instead of the cluster's, no two are known apart."""
        self.cluster = cluster
        self.nodes = tuple(_nodes(cluster) if nodes is None else nodes)
        self.pairs = dict(self._pairs()) if nodes is None else {}

    @cached_property
    def node_of(self) -> tuple[int, ...]:
        """The node of every device, missing ones too."""
        sizes = (group.devices_per_node for group in self.cluster.node_groups for _ in range(group.nodes))
        return tuple(node for node, size in enumerate(sizes) for _ in range(size))

    @cached_property
    def first_device(self) -> tuple[int, ...]:
        """The first device of every node, missing or not."""
        sizes = [group.devices_per_node for group in self.cluster.node_groups for _ in range(group.nodes)]
        return (0, *accumulate(sizes[:-1]))

    def between(self, a: int, b: int) -> Path:
        """What one device of two nodes of different domains sustains to the other node, never more than the cards at
        both ends. Links between node groups are left out: whoever crosses them shares them."""
        path = worst(self._network(node) for node in (a, b))
        measured = self.pairs.get((min(a, b), max(a, b)), path.bandwidth_bytes_per_s)
        return path if measured >= path.bandwidth_bytes_per_s else replace(path, bandwidth_bytes_per_s=measured)

    def fabric(self, nodes: Iterable[int], group: int, members: int) -> Path:
        """Inside the domains of a node group, among so many devices of each, on these nodes."""
        path = fabric_path(self.cluster.node_groups[group], members)
        factor = min(self.nodes[node].fabric_factor for node in nodes)
        return path if factor == 1 else replace(path, bandwidth_bytes_per_s=factor * path.bandwidth_bytes_per_s)

    def _network(self, node: int) -> Path:
        path = self.nodes[node].network
        assert path is not None, "check() asks for NICs wherever there is more than one domain"
        return path

    def _pairs(self) -> Iterator[tuple[tuple[int, int], float]]:
        """Bytes per second of one device, of the pairs of nodes (ascending) that are known apart."""
        exceptions = self.cluster.exceptions
        measured = dict(_measured(self.cluster))
        yield from ((pair, rate / self.devices(*pair)) for pair, rate in measured.items())
        numbers = {node.name: index for index, node in enumerate(self.nodes)}
        for each in exceptions.paths:
            a, b = sorted(numbers[name] for name in each.between)
            if each.bandwidth_bytes_per_s is not None:
                yield (a, b), each.bandwidth_bytes_per_s / self.devices(a, b)
            else:
                ends = worst(self._network(node) for node in (a, b))
                yield (a, b), (each.factor or 1.0) * ends.bandwidth_bytes_per_s

    def devices(self, a: int, b: int) -> int:
        """How many share a path between two nodes."""
        groups = self.cluster.node_groups
        return max(groups[self.nodes[node].group].devices_per_node for node in (a, b))


def is_uniform(cluster: Cluster) -> bool:
    """Whether node groups and the links between them say everything."""
    exceptions = cluster.exceptions
    matrices = (exceptions.matrix, *(group.fabric.matrix for group in cluster.node_groups))
    return not (exceptions.nodes or exceptions.paths or any(matrices))


def _nodes(cluster: Cluster) -> Iterator[Node]:
    exceptions = {each.node: each for each in cluster.exceptions.nodes}
    best = _best_measured(cluster)
    gone, device, domains, count = cluster.missing_devices, 0, 0, 0
    for index, group in enumerate(cluster.node_groups):
        size = group.devices_per_node
        for number in range(group.nodes):
            name = f"{group.name}/{number}"
            exception = exceptions.get(name) or NodeException.model_validate({"node": name})
            yield Node(
                name=name,
                group=index,
                domain=domains + number * size // domain_devices(group),
                devices=tuple(each for each in range(device, device + size) if each not in gone),
                network=_network(group, exception, best.get(count, 0.0)),
                fabric_factor=exception.fabric_factor or 1.0,
            )
            device, count = device + size, count + 1
        domains += -(-group.num_devices // domain_devices(group))


def _network(group: NodeGroup, exception: NodeException, measured: float) -> Path | None:
    """What the file says of this node; else the best path that was measured from it; else what its group says."""
    path, devices = network_path(group), group.devices_per_node
    if path is None:
        return None
    bandwidth = path.bandwidth_bytes_per_s
    if measured:
        bandwidth = measured / devices
    if exception.network_bytes_per_s is not None:
        bandwidth = exception.network_bytes_per_s / devices
    elif exception.network_factor is not None:
        bandwidth *= exception.network_factor
    return replace(path, bandwidth_bytes_per_s=bandwidth)


def _best_measured(cluster: Cluster) -> dict[int, float]:
    """Bytes per second of whole nodes, the best path of each that was measured."""
    best: dict[int, float] = {}
    for pair, rate in _measured(cluster):
        for node in pair:
            best[node] = max(best.get(node, 0.0), rate)
    return best


def _measured(cluster: Cluster) -> Iterator[tuple[tuple[int, int], float]]:
    """Pairs of nodes (ascending) of the matrix with a rate, of whole nodes."""
    matrix = cluster.exceptions.matrix
    if matrix is None:
        return
    scale = matrix.scale_bytes_per_s
    for a, row in enumerate(matrix.rows):
        for b in range(a + 1, len(row)):
            rate = matrix.slower(a, b)
            if rate:
                yield (a, b), scale * rate
