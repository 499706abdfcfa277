"""The closed loop on a small cluster that this machine plays: experiment (b) of docs/closed_loop.md.

    python -m meshwright.tests.benchmarks.testbed [--tier root|"user namespaces"|none] [--scenario TEXT] [--rounds 5]
                                                  [--budget 8] [--faster 1] [--json FILE]

Every scenario is profiled; the topology and the slow part must be found; `plan` must map around it; the step is run
with real collectives and virtual compute, beside the plan of somebody who knows nothing of it, in turns. Exit code 1
where something was not found, does not help, or was predicted wrong by more than 10 %.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import torch

from meshwright.tests.cluster.closed_loop import Outcome, Run, closed_loop
from meshwright.tests.cluster.scenario import SCENARIOS
from meshwright.tests.cluster.tier import TIERS, best_tier, enter, says

BAR = 0.10
LARGE_BYTES = 2**19
_COLUMNS = ("scenario", "found", "order", "mesh", "layers", "ranks on hosts", "predicted s", "measured s", "error")


def failures(outcome: Outcome) -> Iterator[str]:
    """What was asked for and is not so."""
    scenario, found = outcome.scenario, outcome.links.topology
    if set(found.racks) != set(scenario.racks):
        yield f"racks {found.racks} were found, not {scenario.racks}"
    if set(found.groups) != set(scenario.groups or (tuple(range(scenario.hosts)),)):
        yield f"groups of cards {found.groups} were found, not {scenario.groups or 'one'}"
    slow_hosts = [slow.hosts for slow in found.slow_hosts]
    if slow_hosts != ([] if scenario.slow_host is None else [(scenario.slow_host,)]):
        yield f"slow hosts {slow_hosts} were found, not {scenario.slow_host}"
    slow_links = [slow.hosts for slow in found.slow_links]
    if slow_links != ([] if scenario.slow_link is None else [scenario.slow_link]):
        yield f"slow links {slow_links} were found, not {scenario.slow_link}"
    planned, naive = outcome.planned, outcome.naive
    if planned.predicted_s >= naive.predicted_s or planned.measured_s >= naive.measured_s:
        yield f"the plan ({planned.measured_s:.3f} s) is not faster than the naive order ({naive.measured_s:.3f} s)"
    if abs(planned.error) > BAR and (planned.dp == 1 or planned.bucket_bytes >= LARGE_BYTES):
        yield f"the step of the plan was predicted {planned.error:+.1%} wrong"


def found_words(outcome: Outcome) -> str:
    """What the profile says, for people."""
    found = outcome.links.topology
    words = [f"racks {[list(rack) for rack in found.racks]}"] if len(found.racks) > 1 else []
    words += [f"cards {[list(group) for group in found.groups]}"] if len(found.groups) > 1 else []
    for what, slows in (("host", found.slow_hosts), ("link", found.slow_links)):
        for slow in slows:
            rate, usual = (8e-6 * value for value in (slow.rate, slow.usual))
            words.append(f"slow {what} {'-'.join(map(str, slow.hosts))}: {rate:.0f} of {usual:.0f} Mbit/s")
    return "; ".join(words) or "nothing"


def line(outcome: Outcome, name: str, run: Run) -> str:
    """A row of the table."""
    mesh, layers = f"pp {run.pp} x dp {run.dp}, microbatch {run.microbatch}", "-".join(map(str, run.stage_layers))
    low, high = min(run.seconds), max(run.seconds)
    cells = [outcome.scenario.name, found_words(outcome), name, mesh, layers, str(list(run.rank_map))]
    cells += [f"{run.predicted_s:.3f}", f"{run.measured_s:.3f} ({low:.3f}-{high:.3f})", f"{run.error:+.1%}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=TIERS)
    parser.add_argument("--scenario", default="", help="only those whose name has this text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=8, help="seconds of a profile")
    parser.add_argument("--faster", type=float, default=1, help="rates of all links times so many")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    tier = given.tier or best_tier()
    enter(tier, ["-m", "meshwright.tests.benchmarks.testbed", *sys.argv[1:]])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the network is torn down
    begin, wrong, outcomes = time.perf_counter(), list[str](), list[Outcome]()
    sys.stdout.write(f"{says(tier)}\n\n| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}\n")
    for scenario in (each for each in SCENARIOS if given.scenario in each.name):
        outcome = closed_loop(scenario.faster(given.faster), tier, given.budget, given.rounds)
        outcomes.append(outcome)
        wrong += [f"{scenario.name}: {words}" for words in failures(outcome)]
        sys.stdout.write(f"{line(outcome, 'planned', outcome.planned)}\n{line(outcome, 'naive', outcome.naive)}\n")
        sys.stdout.flush()
    taken_s = time.perf_counter() - begin
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, torch {torch.__version__}"
    sys.stdout.write(f"\n{date.today().isoformat()}, {machine}, gloo; {taken_s:.0f} s\n")
    if given.json:
        about = {"date": date.today().isoformat(), "machine": machine, "tier": tier, "seconds": taken_s}
        rows = [outcome.to_json() for outcome in outcomes]
        given.json.write_text(json.dumps(about | {"scenarios": rows, "failures": wrong}, indent=1) + "\n")
    for words in wrong:
        sys.stdout.write(f"FAILED {words}\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
