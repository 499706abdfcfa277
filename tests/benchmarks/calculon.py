"""The planner beside Calculon's exhaustive search, judged by Calculon's own cost model. Not a test.

    python tests/benchmarks/calculon.py CHECKOUT [--cases 0,2] [--keep optima.json]

CHECKOUT is a copy of github.com/calculon-ai/calculon that stands elsewhere (written for caa4b11, 2024-02-22; it imports
psutil); nothing of it is fetched, built or copied. Its published search (`llm-optimal-execution -m`) runs over
everything but offloading, its second memory set to zero; minutes a case. `--keep` holds what that found, so that a
second run asks for less.

The planner gets the same machine (peaks, efficiencies, bandwidths and sizes of the system file) and the same model
without a vocabulary, which Calculon has not, priced as the framework that Calculon describes (attention that is not
fused: megatron-lm), once for each choice of recomputation. What it decides is taken as it is: degrees, virtual stages,
microbatch, ZeRO, recomputation. What Calculon knows beside (how tensor parallelism communicates and overlaps, whether
data parallelism does) is tried out on Calculon's model; these evaluations count in the time.

Two readings. `plan`: the plan that our cost model puts first. `shortlist`: the best by Calculon's model of the
SHORTLIST that our cost model puts first when devices have a tenth more memory, since Calculon says what fits. Seconds
are those of this process on the CPU, search and evaluations, imports left out (0.3 s for the planner).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from calculon_peer import Case, Json, Optimum, Peer
from calculon_words import RECOMPUTE, Choice, cluster_of, executions, model_of
from rich.console import Console
from rich.table import Table

from meshwright.errors import InfeasibleError, InputError
from meshwright.planner.configuration import Mesh, Recompute
from meshwright.planner.job import Job
from meshwright.planner.pins import Pins
from meshwright.planner.plan import Plan
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.search.space import CHUNKS

SHORTLIST = 10
FRAMEWORK = "megatron-lm"
ROOM = 1.1
"""Memory of a device for the shortlist: Calculon judges what fits, and its optima fill its devices by its own count."""

CASES = (
    Case("megatron-22B", "a100_80g", 8, 4),
    Case("megatron-5B", "h100_80g_nvl8", 4, 8),
    Case("megatron-126M", "a100_80g", 4, 8),
    Case("anthropic-52B", "h100_80g_nvl8", 16, 2),
    Case("turing-530B", "a100_80g", 280, 5),
    Case("megatron-1T", "a100_80g", 512, 2),
    Case("gpt3-175B", "a100_80g", 64, 1),
    Case("anthropic-52B", "a100_80g", 64, 1),
    Case("lamda", "h100_80g_nvl8", 64, 1),
    Case("gopher-280B", "h100_80g_nvl8", 160, 1),
)
"""Sizes whose exhaustive search ends within minutes: batches with few divisors keep its microbatch sizes few. With a
batch of one it has thousands of points and ends within seconds."""


def chosen(case: Case, model: Json, system: Json, room: float = 1.0) -> list[Choice]:
    """The planner's plans and their runners-up, best first."""
    spec, cluster = model_of(model, case.model), cluster_of(system, case.devices, room)
    job = Job(seq_len=model["seq_size"], global_batch=case.batch, precision="fp16")
    found: list[Choice] = []
    for recompute, vpp in product(RECOMPUTE, _interleavings(model["num_blocks"])):
        pins = Pins(recompute=recompute, vpp=vpp)
        try:
            plan = find_plan(Request(model=spec, cluster=cluster, job=job, pins=pins, top=9, framework=FRAMEWORK))
        except (InfeasibleError, InputError):
            continue
        found += _choices(plan, recompute)
    return sorted((each for each in found if each.zero < 3), key=lambda each: each.step_s)


def _interleavings(blocks: int) -> list[int | None]:
    """What the planner tries by itself, and what Calculon tries beyond that."""
    return [None, *(each for each in range(CHUNKS[-1] + 1, blocks // 2 + 1) if blocks % each == 0)]


def _choices(plan: Plan, recompute: Recompute) -> Iterator[Choice]:
    for step_s, of in [(plan.predicted.step_time_s, plan), *((other.step_time_s, other) for other in plan.runners_up)]:
        yield Choice(step_s, Mesh(**dict(of.mesh)), of.schedule.vpp, of.microbatch, of.zero, recompute)


def best_rate(peer: Peer, case: Case, choices: Iterable[Choice]) -> float:
    """Samples a second of the best of them by Calculon's model; 0 where it refuses all."""
    model, system = peer.file("models", case.model), peer.file("systems", case.system)
    tried = (peer.rate(model, system, each) for choice in choices for each in executions(choice, case, system))
    return max((rate for rate in tried if rate is not None), default=0.0)


def judged(peer: Peer, case: Case, optimum: Optimum) -> list[str]:
    """One row of the table."""
    model, system = peer.file("models", case.model), peer.file("systems", case.system)
    started = time.process_time()
    first = chosen(case, model, system)[0]
    alone = best_rate(peer, case, [first])
    told = time.process_time() - started
    shortlist = best_rate(peer, case, chosen(case, model, system, ROOM)[:SHORTLIST])
    seconds, mesh = time.process_time() - started - told, first.mesh
    best = optimum.execution
    return [
        f"{case.model} {case.system} {case.devices} / {case.batch}",
        f"{optimum.points:,}",
        f"{optimum.seconds:.0f}",
        f"pp{best['pipeline_par']} dp{best['data_par']} tp{best['tensor_par']} x{best['pipeline_interleaving']} "
        f"mb{best['microbatch_size']} {best['activation_recompute']}",
        f"pp{mesh.pp} dp{mesh.dp} tp{mesh.tp} x{first.vpp} mb{first.microbatch} {RECOMPUTE[first.recompute]}",
        f"{100 * alone / optimum.rate:.1f}",
        f"{100 * shortlist / optimum.rate:.1f}",
        f"{told:.2f}",
        f"{optimum.seconds / told:.0f}",
        f"{seconds:.2f}",
        f"{optimum.seconds / seconds:.0f}",
    ]


HEAD = (
    "case: devices / batch", "points", "its s", "its optimum", "our plan", "plan %", "shortlist %",
    "plan s", "faster", "shortlist s", "faster",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--cases", default=",".join(map(str, range(len(CASES)))), help="numbers, with commas")
    parser.add_argument("--keep", type=Path, help="file of optima that were found before, and of those found now")
    args = parser.parse_args()
    peer, table = Peer(args.checkout), Table(*HEAD)
    kept = json.loads(args.keep.read_text()) if args.keep and args.keep.exists() else {}
    for number in map(int, args.cases.split(",")):
        case = CASES[number]
        name = " ".join(map(str, case))
        optimum = Optimum(**kept[name]) if name in kept else peer.optimum(case)
        kept[name] = {each: getattr(optimum, each) for each in Optimum.__slots__}
        if args.keep:
            args.keep.write_text(json.dumps(kept, indent=1))
        table.add_row(*judged(peer, case, optimum))
    Console(width=220).print(table)


if __name__ == "__main__":
    main()
