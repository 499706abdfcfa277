"""How the bundled efficiencies were derived from published measurements; anyone can repeat it.

    python -m meshwright.clusters.efficiency gemm gemm.csv h100_sxm "989 TFLOP/s"
    python -m meshwright.clusters.efficiency gemm gemm.csv h100_sxm "1978.9 TFLOP/s" fp8
    python -m meshwright.clusters.efficiency nccl nccl.csv h100_sxm "450 GB/s"
    python -m meshwright.clusters.efficiency network 8 "256 MiB" "50 GB/s" 1:250,2:185,4:119,8:69,16:55,32:28,64:11

The tables are those of ai-dynamo/aiconfigurator (commit 095f58a51, Apache-2.0, `systems/data`) as
CSV: `gpu,dtype,m,n,k,latency_ms` and `system,nccl_version,op,num_gpus,message_elems_or_bytes,
latency_ms` (elements of fp16, of the whole buffer). `network`: bus bandwidth in GB/s of an all-gather over so many
nodes, as nccl-tests count it; the figures above are those of the nanotron ultra-scale playbook (H100 over EFA).
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ..units import parse_bytes, parse_flops, parse_rate
from .fit import efficiency_points, ring_fit

Row = Mapping[str, str]


def launch_s(rows: Iterable[Row]) -> float:
    """Fixed cost of a kernel: the fastest matmul of the table, whose arithmetic is negligible."""
    return min(float(row["latency_ms"]) for row in rows) / 1e3


def matmul_samples(rows: Iterable[Row], peak_flops: float, fixed_s: float) -> Iterator[tuple[float, float]]:
    """(FLOPs, fraction of peak) over the shapes of training: m >= 1024 tokens, n and k >= 512.

    The fixed cost is taken off, because the cost model adds it again.
    """
    for row in rows:
        m, n, k = (int(row[name]) for name in "mnk")
        if m >= 1024 and min(n, k) >= 512:
            flops = 2.0 * m * n * k
            yield flops, flops / (float(row["latency_ms"]) / 1e3 - fixed_s) / peak_flops


def ring_samples(rows: Iterable[Row]) -> list[tuple[int, float, float]]:
    """(ring steps, bytes through each device, seconds) of the collectives that are rings.

    An all-gather or reduce-scatter over n devices is priced as n - 1 steps of size/n, an all-reduce as
    twice that (planner/cost/communication.py). Buffers of 16 MiB and more, as tensor-parallel layers and
    gradient buckets have them.
    """
    return [sample for sample in map(_steps, rows) if sample is not None]


def _steps(row: Row) -> tuple[int, float, float] | None:
    rounds = {"all_gather": 1, "reduce_scatter": 1, "all_reduce": 2}.get(row["op"])
    size = 2.0 * int(row["message_elems_or_bytes"])
    if rounds is None or size < 2**24:
        return None
    n = int(row["num_gpus"])
    return rounds * (n - 1), rounds * size * (n - 1) / n, float(row["latency_ms"]) / 1e3


def network_samples(node_devices: int, size: float, busbw: Mapping[int, float]) -> list[tuple[int, float, float]]:
    """(ring steps, bytes through each card, seconds) of the rings between nodes: what more nodes than one add, since
    planner/cost/communication.py prices the ring inside a node apart."""
    ranks = {nodes: nodes * node_devices for nodes in busbw}
    seconds = {nodes: (n - 1) / n * size / busbw[nodes] for nodes, n in ranks.items()}
    return [
        (nodes - 1, (nodes - 1) / nodes * size / node_devices, seconds[nodes] - seconds[1])
        for nodes in busbw
        if nodes > 1
    ]


def _read(path: str, **wanted: str) -> list[Row]:
    with Path(path).open(newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]


def _print_gemm(path: str, gpu: str, peak: str, dtype: str = "bfloat16") -> None:
    rows = _read(path, gpu=gpu, dtype=dtype)
    fixed = launch_s(rows)
    print(f"launch: {fixed * 1e6:.1f} us")
    for flops, fraction in efficiency_points(matmul_samples(rows, parse_flops(peak), fixed), at_least=10):
        print(f"- {{flops: {flops:.3e}, fraction: {fraction:.3f}}}")


def _print_nccl(path: str, system: str, bandwidth: str) -> None:
    latency, rate = ring_fit(ring_samples(_read(path, system=system)))
    print(f"latency: {latency * 1e6:.1f} us, efficiency: {rate / parse_rate(bandwidth):.2f} of {bandwidth}")


def _print_network(devices: str, size: str, rate: str, points: str) -> None:
    busbw = {int(nodes): float(gb) * 1e9 for nodes, gb in (point.split(":") for point in points.split(","))}
    latency, found = ring_fit(network_samples(int(devices), parse_bytes(size), busbw))
    print(f"latency: {latency * 1e6:.0f} us, efficiency: {found / parse_rate(rate):.2f} of {rate} a card")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    commands: dict[str, Callable[..., None]] = {"gemm": _print_gemm, "nccl": _print_nccl, "network": _print_network}
    commands[command](*arguments)
