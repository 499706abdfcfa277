"""Plans of models with experts beside the configurations published for them, both priced by the same simulator.

    python -m meshwright.tests.benchmarks.moe_plans [--only qwen3]

What was published is pinned and the rest of it is searched for, so that it is the best of its kind by this cost model;
both run on the built-in runtime in bf16. `times` is its step over that of the plan that is free to choose; the last
column says where it spends the more. A row that nothing of fits says what binds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from meshwright.clusters.catalogue import load_cluster
from meshwright.errors import InfeasibleError
from meshwright.planner.explain import MEANING, describe
from meshwright.planner.families import load_model
from meshwright.planner.job import Job
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import Plan
from meshwright.planner.search.choose import choose
from meshwright.planner.search.request import Request


@dataclass(frozen=True, slots=True)
class Published:
    """A configuration that somebody trains with."""

    model: str
    cluster: str
    seq_len: int
    batch: int
    pins: tuple[str, ...]
    source: str


ROWS = (
    Published(
        "deepseek-v3", "h800:256", 4096, 15360, ("pp=16", "tp=1", "ep=64", "etp=1", "zero=1", "dispatch=nodes"),
        "DeepSeek-V3, arXiv:2412.19437, section 3.2",
    ),
    Published(
        "deepseek-v3", "dgx-h100:128", 4096, 8192, ("pp=16", "tp=2", "ep=64", "etp=1"),
        "Megatron-Core, parallelism guide: 1,024 H100",
    ),
    Published(
        "mixtral-8x22b", "dgx-h100:32", 4096, 1024, ("pp=4", "tp=4", "ep=8"),
        "Megatron-Core, parallelism guide: 256 H100",
    ),
    Published(
        "qwen3-235b-a22b", "dgx-h100:32", 4096, 8192,
        ("pp=8", "tp=2", "ep=32", "etp=1", "schedule=interleaved", "vpp=4", "microbatch=1"),
        "Megatron-Bridge 26.04, row M03816 of tests/published/runs.csv",
    ),
    Published(
        "olmoe-1b-7b", "dgx-h100:32", 4096, 1024, ("pp=1", "tp=1", "ep=1", "zero=3"),
        "OLMoE, arXiv:2409.02060, section 2: 256 H100, sharded by FSDP",
    ),
)  # fmt: skip


def request(row: Published, pins: tuple[str, ...]) -> Request:
    return Request(
        model=load_model(row.model),
        cluster=load_cluster(row.cluster),
        job=Job(seq_len=row.seq_len, global_batch=row.batch),
        pins=parse_pins(list(pins)),
        top=0,
    )


def written(plan: Plan) -> str:
    """`pp8 dp16 ep32, nodes x 4`."""
    schedule = plan.schedule.name + (f" x{plan.schedule.vpp}" if plan.schedule.vpp > 1 else "")
    sent = f", {plan.dispatch} in {plan.dispatch_chunks}" if plan.mesh.ep > 1 else ""
    return f"{describe(plan.mesh)}, {schedule}, ZeRO {plan.zero}, microbatch {plan.microbatch}{sent}"


def more(ours: Plan, theirs: Plan) -> str:
    """Where the published one spends the more."""
    left, right = (dict(plan.predicted.breakdown_s) for plan in (ours, theirs))
    worst = max(left, key=lambda name: right[name] - left[name])
    lost = right[worst] - left[worst]
    return f"{lost:.2f} s on {MEANING[worst]}" if lost > 0 else ""


def line(row: Published) -> str:
    ours = choose(request(row, ()))
    head = f"| {row.model} | {row.cluster} | {written(ours)} | {ours.predicted.step_time_s:.2f}"
    try:
        theirs = choose(request(row, row.pins))
    except InfeasibleError as error:
        return f"{head} | {' '.join(row.pins)} | | | {error.binding} | {row.source} |"
    ratio = theirs.predicted.step_time_s / ours.predicted.step_time_s
    told = f"{theirs.predicted.step_time_s:.2f} | {ratio:.3f} | {more(ours, theirs)}"
    return f"{head} | {written(theirs)} | {told} | {row.source} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose model has this in its name")
    only = parser.parse_args().only
    print("| model | cluster | plan | step, s | published | step, s | times | more | source |")
    print("|---|---|---|---:|---|---:|---:|---|---|")
    for row in ROWS:
        if only in row.model:
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
