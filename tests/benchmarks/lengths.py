"""Assignments of sequences to mixed context-parallel groups: how good, how soon.

    python tests/benchmarks/lengths.py --steps 2 --quick

Prints a line a case: the solver's CPU seconds on one core beside the predicted seconds of a step, the proven gap, and
how many times as long the best fixed degree takes (solved as well) and rows of seq_len tokens packed plainly.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from meshwright.clusters import load_cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.setting import Setting
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.lengths.distribution import Lognormal
from meshwright.planner.lengths.expected import Judge, drawn
from meshwright.planner.lengths.prices import degrees_of, prices_of, table_of
from meshwright.planner.lengths.solve import solve

HEAD = (
    "model", "cluster", "ranks", "sequences", "longest", "median, p99", "exchange", "step, s", "solver, CPU s", "gap",
    "degrees", "best fixed (degree)", "packed (degree)",
)  # fmt: skip
LIGHT, MIDDLE, HEAVY = (500, 8_000), (800, 24_000), (1_000, 60_000)
"""Median and 99th percentile of the lengths."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line. `tail`: median and 99th percentile of a lognormal; every rank is a data-parallel one, ZeRO 3."""

    model: str
    cluster: str
    sequences: int
    seq_len: int
    tail: tuple[int, int]
    algorithm: str = "ring"
    recompute: str = "full"


CASES = (
    Case("llama-3.1-8b", "dgx-h100:1", 64, 131_072, HEAVY),
    Case("llama-3.1-8b", "dgx-h100:1", 256, 131_072, HEAVY),
    Case("llama-3.1-8b", "dgx-h100:8", 512, 131_072, LIGHT),
    Case("llama-3.1-8b", "dgx-h100:8", 512, 131_072, MIDDLE),
    Case("llama-3.1-8b", "dgx-h100:8", 512, 131_072, HEAVY),
    Case("llama-3.1-8b", "dgx-h100:32", 1024, 131_072, HEAVY),
    Case("llama-3.1-8b", "dgx-h100:64", 2048, 131_072, HEAVY),
    Case("llama-3.1-8b", "dgx-h100:128", 4096, 131_072, HEAVY),
    Case("llama-2-7b", "dgx-a100-40g:8", 512, 196_608, LIGHT, "ulysses"),
    Case("llama-2-7b", "dgx-a100-40g:8", 512, 196_608, MIDDLE, "ulysses"),
    Case("llama-2-7b", "dgx-a100-40g:8", 512, 196_608, HEAVY, "ulysses"),
    Case("llama-2-7b", "dgx-a100-40g:8", 512, 393_216, MIDDLE, "ulysses"),
    Case("llama-2-7b", "dgx-a100-40g:8", 512, 393_216, HEAVY, "ulysses"),
    Case("llama-2-7b", "dgx-a100-40g:8", 512, 393_216, HEAVY, "ring"),
)


def line(case: Case, steps: int) -> str:
    """One case, the mean of some drawn steps."""
    judge = judge_of(case)
    found = judge.steps(steps)
    seconds, bound = (fmean(getattr(each.solution, name) for each in found) for name in ("seconds", "bound_s"))
    fixed_s, degree = min(_fixed(judge, steps))
    packed_degree, packed_s = judge.packed_s(steps)
    step_s = fmean(each.time.total_s for each in found)
    used = sorted({degree for each in found for degree in each.solution.assignment.degrees})
    solver_s = max(each.solution.cpu_s for each in found)
    cells = [
        case.model,
        case.cluster,
        f"{judge.prices.lanes}",
        f"{case.sequences}",
        f"{case.seq_len // 1024}k",
        f"{case.tail[0]}, {case.tail[1]}",
        case.algorithm,
        f"{step_s:.2f}",
        f"{solver_s:.2f}",
        f"{1 - bound / seconds:.1%}",
        ", ".join(map(str, used)),
        f"{fixed_s / step_s:.2f} ({degree})",
        f"{packed_s / step_s:.2f} ({packed_degree})",
    ]
    return _row(cells)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def judge_of(case: Case) -> Judge:
    """The case's prices."""
    lengths = Lognormal(median=case.tail[0], p99=case.tail[1])
    job = Job(seq_len=case.seq_len, global_batch=case.sequences, lengths=lengths)
    setting = Setting(architecture(load_model(case.model)), load_cluster(case.cluster), job)
    ranks = setting.cluster.num_devices
    configuration = Configuration(
        mesh=Mesh(dp=ranks), stage_layers=(len(setting.architecture.layers),), microbatch=1, microbatches=1, zero=3,
        recompute=(case.recompute,), cp_algorithm=case.algorithm, logits_chunks=8,
    )  # fmt: skip
    table = table_of(setting, configuration, tuple(d for d in degrees_of(setting, configuration) if d <= 256))
    return Judge(setting, prices_of(setting, configuration, table), configuration)


def _fixed(judge: Judge, steps: int) -> list[tuple[float, int]]:
    """Expected steps with groups of one degree, for every degree that holds the longest sequence."""
    found = []
    for degree in judge.prices.degrees:
        one = judge.prices.among([degree])
        if one.holds(judge.setting.job.seq_len):
            solved = [solve(one.instance(lengths)) for lengths in drawn(judge.setting, steps)]
            rounds = ([each.seconds for each in solution.assignment.rounds] for solution in solved)
            found.append((fmean(judge.time(each).total_s for each in rounds), degree))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2, help="drawn steps a case")
    parser.add_argument("--quick", action="store_true", help="only the first three cases")
    arguments = parser.parse_args()
    print(_row(HEAD))
    print(_row(["---"] * len(HEAD)))
    for case in CASES[:3] if arguments.quick else CASES:
        print(line(case, arguments.steps), flush=True)


if __name__ == "__main__":
    main()
