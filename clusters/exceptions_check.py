"""What the exceptions of a cluster must satisfy: they name nodes and devices that are there, each once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import Problem, did_you_mean
from .schema import Cluster, Matrix, NodeException


def exception_problems(cluster: Cluster) -> Iterator[Problem]:
    """Every way in which exceptions, matrices and the rest of the cluster contradict each other."""
    names = [f"{group.name}/{number}" for group in cluster.node_groups for number in range(group.nodes)]
    yield from _nodes(cluster, names)
    yield from _paths(cluster, names)
    yield from _matrices(cluster, names)
    if not cluster.missing_devices:
        return
    if cluster.num_devices < 1:
        yield Problem("exceptions.nodes", None, "every device of the cluster is missing", "leave one in")


def _nodes(cluster: Cluster, names: Sequence[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    sizes = {group.name: group.devices_per_node for group in cluster.node_groups}
    for index, each in enumerate(cluster.exceptions.nodes):
        field = f"exceptions.nodes[{index}]"
        if each.node not in names:
            yield Problem(f"{field}.node", each.node, "is not the name of a node", _nearest(each.node, names))
            continue
        if each.node in seen:
            yield Problem(f"{field}.node", each.node, "stands here already", "one entry for each node")
        seen.add(each.node)
        yield from _node(each, field, sizes[each.node.rpartition("/")[0]])
        if _is_measured(cluster, names.index(each.node)) and _sets_network(each):
            rule = "the matrix says already what this node's network sustains"
            yield Problem(f"{field}.network", each.network_bytes_per_s or each.network_factor, rule, "one of both")


def _node(each: NodeException, field: str, devices: int) -> Iterator[Problem]:
    if each.network_bytes_per_s is not None and each.network_factor is not None:
        yield Problem(f"{field}.network_factor", each.network_factor, "a rate is given already", "one of both")
    if not (_sets_network(each) or each.fabric_factor is not None or each.missing):
        yield Problem(field, each.node, "says nothing of this node", "network, network_factor, fabric_factor, missing")
    if each.missing == "all":
        return
    for device in each.missing:
        if not 0 <= device < devices:
            rule = f"the node has devices 0 to {devices - 1}"
            yield Problem(f"{field}.missing", device, rule, str(min(max(device, 0), devices - 1)))
    if len(set(each.missing)) < len(each.missing):
        yield Problem(f"{field}.missing", list(each.missing), "names a device twice", str(sorted(set(each.missing))))


def _sets_network(each: NodeException) -> bool:
    return each.network_bytes_per_s is not None or each.network_factor is not None


def _paths(cluster: Cluster, names: Sequence[str]) -> Iterator[Problem]:
    seen: set[frozenset[str]] = set()
    for index, each in enumerate(cluster.exceptions.paths):
        field, pair = f"exceptions.paths[{index}]", frozenset(each.between)
        unknown = sorted(pair - set(names))
        for name in unknown:
            yield Problem(f"{field}.between", name, "is not the name of a node", _nearest(name, names))
        if len(pair) == 1:
            yield Problem(f"{field}.between", each.between[0], "must name two different nodes")
        if pair in seen:
            yield Problem(f"{field}.between", list(each.between), "these nodes stand here already")
        if (each.bandwidth_bytes_per_s is None) == (each.factor is None):
            yield Problem(field, list(each.between), "needs a bandwidth or a factor, one of both", "factor: 0.5")
        if not unknown and len(pair) == 2:
            a, b = (names.index(name) for name in each.between)
            matrix = cluster.exceptions.matrix
            if matrix is not None and _is_square(matrix, len(names)) and matrix.slower(a, b):
                yield Problem(f"{field}.between", list(each.between), "the matrix has a rate for this path already")
        seen.add(pair)


def _is_measured(cluster: Cluster, node: int) -> bool:
    matrix = cluster.exceptions.matrix
    return matrix is not None and node < len(matrix.rows) and any(matrix.rows[node])


def _matrices(cluster: Cluster, names: Sequence[str]) -> Iterator[Problem]:
    if cluster.exceptions.matrix is not None:
        yield from _matrix(cluster.exceptions.matrix, "exceptions.matrix", len(names), "nodes")
    for index, group in enumerate(cluster.node_groups):
        field = f"node_groups[{index}].fabric.matrix"
        if group.fabric.matrix is None:
            continue
        yield from _matrix(group.fabric.matrix, field, group.devices_per_node, "devices of a node")
        if group.fabric.domain_devices not in (None, group.devices_per_node):
            yield Problem(field, None, "needs the fabric to end with the node", "leave domain_devices out")


def _matrix(matrix: Matrix, field: str, size: int, of: str) -> Iterator[Problem]:
    if not _is_square(matrix, size):
        shape = f"{len(matrix.rows)} rows of {sorted({len(row) for row in matrix.rows})}"
        yield Problem(f"{field}.rows", shape, f"must have {size} rows of {size} rates: one for each of the {of}")
        return
    for place, row in enumerate(matrix.rows):
        if row[place]:
            yield Problem(f"{field}.rows[{place}][{place}]", row[place], "has no path to itself", "0")
        negative = [rate for rate in row if rate < 0]
        if negative:
            yield Problem(f"{field}.rows[{place}]", negative[0], "must not be negative; 0 is: not measured", "0")


def _is_square(matrix: Matrix, size: int) -> bool:
    return [len(row) for row in matrix.rows] == [size] * size


def _nearest(name: str, names: Sequence[str]) -> str:
    return did_you_mean(name, names) if len(names) < 1000 else f"group/number, as {names[0]}"
