"""How long planning takes: a process of its own for every row, from its start to the plan.

    python -m meshwright.tests.benchmarks.planning            or with the file's path
    python tests/benchmarks/planning.py --only 405b --gap 0.01

Prints a line a row: the gap that was proven, seconds by the clock and of CPU, recipes in the space, those that were
priced, branches with a bound, and the most memory that the process held; bars stand beside. CPU seconds say more on a
busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.schema import Cluster, GroupLink
from meshwright.schema import dump_yaml

BAR_MIB = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """What is planned, and in how many seconds it should be."""

    model: str
    cluster: str
    seq_len: int
    batch: int
    bar_s: float | None = None


ROWS = (
    Row("llama-3.1-70b", "dgx-h100:8", 8192, 512, 1.0),
    Row("llama-3.1-405b", "dgx-h100:2048", 8192, 2048, 5.0),
    Row("deepseek-v3", "h800:256", 4096, 15360, 10.0),
    Row("llama-3.1-70b", "four groups of 24 nodes", 8192, 768, 30.0),
    Row("llama-3.1-8b", "dgx-h100:1", 8192, 128),
    Row("gpt-3-175b", "dgx-a100-80g:128", 2048, 1536),
    Row("mixtral-8x22b", "dgx-h100:16", 4096, 1024),
    Row("qwen3-235b-a22b", "dgx-h100:32", 4096, 2048),
)
GROUPS = ("dgx-a100-80g", "dgx-h100", "dgx-h200", "dgx-b200")


def four_groups(nodes: int = 24) -> Cluster:
    """Four kinds of nodes under one spine: between two groups as many lines as the slower of them has."""
    groups = [load_cluster(f"{name}:{nodes}").node_groups[0] for name in GROUPS]
    links = []
    for place, first in enumerate(groups):
        for second in groups[place + 1 :]:
            nics = min((each.nics for each in (first, second) if each.nics), key=lambda nic: nic.rate_bytes_per_s)
            bandwidth = nics.rate_bytes_per_s * nics.count * nodes
            between = (first.name, second.name)
            links.append(GroupLink(between=between, kind=nics.kind, bandwidth=bandwidth, latency=2 * nics.latency_s))
    return Cluster(name="four-groups", node_groups=tuple(groups), links=tuple(links), source="made of bundled nodes")


def compiled(folder: str) -> dict[str, str]:
    """The environment of a process that finds its modules compiled in a folder, as an installed package has them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = folder
    plan(Row("llama-3.1-8b", "dgx-h100:1", 8192, 8), 0.01, "dgx-h100:1", environment)
    return environment


def plan(
    row: Row, gap: float, cluster: str, environment: dict[str, str]
) -> tuple[dict[str, object], float, float, float]:
    """The proof, seconds by the clock and of CPU, and MiB, of one process."""
    arguments = [row.model, cluster, "--seq-len", row.seq_len, "--global-batch", row.batch, "--gap", gap, "--json"]
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", "from meshwright.cli import main; main()", "plan", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert child.stdout is not None
    answer = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{row.model} on {row.cluster}: exit code {child.returncode}\n{answer}")
    proof: dict[str, object] = json.loads(answer)["proof"]
    return proof, time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose model or cluster has this in its name")
    parser.add_argument("--gap", type=float, default=0.01)
    arguments = parser.parse_args()
    print("| model | cluster | gap | seconds | CPU seconds | bar | recipes | priced | bounded | MiB | bar |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        mixed = Path(folder) / "four-groups.yaml"
        mixed.write_text(dump_yaml(four_groups().model_dump(mode="json", by_alias=True)))
        environment = compiled(folder)
        for row in ROWS:
            if arguments.only in row.model or arguments.only in row.cluster:
                _print(row, arguments.gap, row.cluster if ":" in row.cluster else str(mixed), environment)


def _print(row: Row, gap: float, cluster: str, environment: dict[str, str]) -> None:
    proof, seconds, cpu_s, mib = plan(row, gap, cluster, environment)
    candidates, pruned = int(str(proof["candidates"])), int(str(proof["pruned"]))
    bar = "" if row.bar_s is None else f"{row.bar_s:g}"
    print(
        f"| {row.model} | {row.cluster} | {float(str(proof['gap'])):.2%} | {seconds:.1f} | {cpu_s:.1f} | {bar} "
        f"| {candidates:,} | {candidates - pruned:,} | {int(str(proof['bounded'])):,} | {mib:.0f} | {BAR_MIB} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
