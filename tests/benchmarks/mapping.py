"""What the order of nodes is worth: plans in the order of the cluster file beside plans in the best order found.

    python tests/benchmarks/mapping.py [MODEL] [--gap 0.01]

For each cluster: the step of the plan for the cluster as its node groups describe it, run on the cluster as it is (what
a planner that knows no exceptions gets); of the best plan in the order of the file; and of the best plan in any order,
with its proven gap and the CPU time of that planning.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace

from meshwright.clusters import Cluster, load_cluster
from meshwright.clusters.in_use import choices
from meshwright.clusters.schema import Exceptions
from meshwright.planner.cost.step import step_s
from meshwright.planner.families import load_model
from meshwright.planner.job import Job
from meshwright.planner.plan import Plan
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan

NODES = 8
ETHERNET = "100 Gbit/s"


@dataclass(frozen=True, slots=True)
class Row:
    """Step times in seconds."""

    name: str
    unaware_s: float | None
    standard_s: float | None
    plan: Plan
    cpu_s: float

    def line(self) -> str:
        step_s = self.plan.predicted.step_time_s
        cells = [self.name, _seconds(self.unaware_s), _seconds(self.standard_s), _seconds(step_s)]
        cells += [_faster(self.unaware_s, step_s), _faster(self.standard_s, step_s), f"{self.plan.proof.gap:.2%}"]
        return f"| {' | '.join([*cells, self.plan.proof.orders or '-', f'{self.cpu_s:.1f}'])} |"


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _faster(before_s: float | None, after_s: float) -> str:
    return "" if before_s is None else f"{before_s / after_s - 1:+.1%}"


def machines() -> dict[str, Cluster]:
    """The clusters of the table."""
    even = load_cluster(f"dgx-h100:{NODES}")
    name = even.node_groups[0].name
    racks = [[0 if a == b else 320 if a % 2 == b % 2 else 8 for b in range(NODES)] for a in range(NODES)]
    slow_path = {"between": [f"{name}/3", f"{name}/4"], "factor": 0.02}
    return {
        "two racks, slow cross-link, hosts in turns": _with(even, matrix={"unit": "GB/s", "rows": racks}),
        "one slow host": _with(even, nodes=[{"node": f"{name}/3", "network_factor": 0.02}]),
        "one slow link": _with(even, paths=[slow_path]),
        "two kinds of cards": _two_kinds(even),
        "two sites": load_cluster("two-site"),
        "one missing device": _with(even, nodes=[{"node": f"{name}/3", "missing": [5]}]),
    }


def _with(cluster: Cluster, **exceptions: object) -> Cluster:
    return cluster.model_copy(update={"exceptions": Exceptions.model_validate(exceptions)})


def _two_kinds(even: Cluster) -> Cluster:
    """Five nodes with InfiniBand, three behind one Ethernet card each."""
    first = even.node_groups[0].model_dump(mode="json", by_alias=True)
    nics = {"kind": "ethernet", "count": 1, "rate": ETHERNET, "latency": "20 us", "efficiency": 0.8}
    groups = [first | {"name": "ethernet", "nodes": 3, "nics": nics}, first | {"name": "infiniband", "nodes": 5}]
    link = {"between": ["infiniband", "ethernet"], "kind": "ethernet", "bandwidth": "300 Gbit/s", "latency": "20 us"}
    return Cluster.model_validate({"name": "two kinds", "node_groups": groups, "links": [link]})


def measured(name: str, request: Request) -> Row:
    """One row: three plans of one request."""
    started = time.process_time()
    plan, cpu_s = find_plan(request), time.process_time() - started
    uniform = request.cluster.model_copy(update={"exceptions": Exceptions()})
    devices = next(iter(choices(request.cluster)))
    order = devices or tuple(range(request.cluster.num_devices))
    unaware = None
    if not devices:
        blind = find_plan(replace(request, cluster=uniform, rank_map=order))
        unaware = step_s(request.setting(), blind.configuration)
    standard = None
    if unaware is not None:
        standard = min(unaware, find_plan(replace(request, rank_map=order)).predicted.step_time_s)
    return Row(name, unaware, standard, plan, cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="llama-3.1-8b")
    parser.add_argument("--gap", type=float, default=0.01)
    given = parser.parse_args()
    model, job = load_model(given.model), Job(seq_len=4096, global_batch=256)
    columns = (
        "cluster",
        "unaware s",
        "file's order s",
        "best order s",
        "gain",
        "gain of the order",
        "gap",
        "proof",
        "CPU s",
    )
    sys.stdout.write(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n")
    for name, cluster in machines().items():
        sys.stdout.write(f"{measured(name, Request(model=model, cluster=cluster, job=job, gap=given.gap)).line()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
