"""A measured cluster as people read it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from statistics import median

from rich.console import Console
from rich.table import Table

from ..clusters.difference import Difference
from ..clusters.schema import Cluster, NodeGroup
from ..units import format_bytes, format_rate, format_seconds

BELOW = 0.85
"""Of what is usual: as a profile judges links between hosts (profiler/links_topology.py)."""


def show_cluster(console: Console, cluster: Cluster) -> None:
    """One table a node group, and below what is slow, and what was not measured."""
    for group in cluster.node_groups:
        console.print(_group(group))
    for words in _slow(cluster):
        console.print(words, markup=False, soft_wrap=True)
    for note in cluster.measured.notes if cluster.measured else ():
        console.print(f"not measured: {note}", markup=False, soft_wrap=True)


def _slow(cluster: Cluster) -> Iterator[str]:
    """Nodes and paths that are below what their groups say."""
    for node in cluster.exceptions.nodes:
        if node.network_bytes_per_s is not None:
            yield f"slow host: {node.node}, {format_rate(node.network_bytes_per_s)}"
    for path in cluster.exceptions.paths:
        if path.bandwidth_bytes_per_s is not None:
            yield f"slow link: {' - '.join(path.between)}, {format_rate(path.bandwidth_bytes_per_s)}"
    for group in cluster.node_groups:
        yield from _slow_devices(group)


def _slow_devices(group: NodeGroup) -> Iterator[str]:
    """Pairs of a node's devices below what most pairs have."""
    matrix = group.fabric.matrix
    if matrix is None:
        return
    pairs = list(combinations(range(len(matrix.rows)), 2))
    rates = {pair: matrix.scale_bytes_per_s * matrix.slower(*pair) for pair in pairs}
    usual = median(rates.values())
    for (a, b), rate in rates.items():
        if rate < BELOW * usual:
            told = f"{format_rate(rate)} where {format_rate(usual)} is usual"
            yield f"slow link: devices {a} - {b} of {group.name}, {told}"


def show_difference(console: Console, found: Difference, before: str, after: str) -> None:
    """One table of all figures; those that changed by more than noise are marked."""
    table = Table("", before, after, "change", "noise", "", title=f"{before} -> {after}", title_justify="left")
    several = len({change.group for change in found.changes}) > 1
    for change in found.changes:
        name = f"{change.group}: {change.figure}" if several else change.figure
        told = (f"{change.before:.4g}", f"{change.after:.4g}") if change.count == 1 else (f"{change.count} points", "")
        most = "" if change.count == 1 else f", at most {change.most - 1:+.1%}"
        mark = "changed" if change.beyond_noise else ""
        table.add_row(name, *told, f"{change.ratio - 1:+.1%}{most}", f"{change.noise:.0%}", mark)
    for name, one, other in found.texts:
        table.add_row(name, one, other, "", "", "")
    console.print(table)
    count = sum(change.beyond_noise for change in found.changes)
    console.print(f"{count} of {len(found.changes)} figures changed by more than noise", markup=False)


def _group(group: NodeGroup) -> Table:
    device, fabric, calibration = group.device, group.fabric, group.device.calibration
    title = f"{group.name}: {group.nodes} x {group.devices_per_node} {device.name} ({calibration.origin})"
    table = Table(title=title, title_justify="left", show_header=False)
    for dtype, peak in device.peak_flops.items():
        table.add_row(f"peak {dtype}", f"{peak / 1e12:,.3f} TFLOP/s")
    low, high = calibration.matmul[0], calibration.matmul[-1]
    table.add_row(
        "matmul reaches", f"{low.fraction:.0%} at {low.flops:.1g} FLOPs, {high.fraction:.0%} at {high.flops:.1g}"
    )
    table.add_row("attention reaches", f"{calibration.attention:.0%}")
    table.add_row("memory", f"{format_bytes(device.memory_bytes)}, {format_rate(device.memory_bandwidth_bytes_per_s)}")
    table.add_row("one kernel costs at least", format_seconds(calibration.launch_s))
    link = f"{format_rate(fabric.bandwidth_bytes_per_s)}, {format_seconds(fabric.latency_s)}"
    table.add_row(f"{fabric.kind} link", f"{link}, {fabric.efficiency:.0%} sustained")
    if group.nics:
        rate = format_rate(group.nics.rate_bytes_per_s)
        table.add_row("network", f"{group.nics.count} x {group.nics.kind}, {rate} each")
    if group.nvme:
        table.add_row("NVMe", format_bytes(group.nvme.capacity_bytes))
    table.add_row("source", calibration.source)
    return table
