"""The closed loop on this machine: profile it, price every legal plan of a small model, run all of them, compare.

    python tests/benchmarks/closed_loop.py --workers 2 --rounds 5 [--out FILE.json] [--picture FILE.png]

Workers are processes that share the cores and talk through gloo. The prediction uses the profile alone. Plans run
interleaved: one step of each after another, round by round, each round from another plan on. `--batch` says how many
models are held at once: with more plans every round takes them in batches, each in processes of its own (of 4 workers
460 models need more than 24 GB). `--cluster` takes a profile that was measured before; `--save` keeps the new one.
`--beside FILE.json` runs nothing: it judges predictions beside the steps that an earlier `--out` holds. `--experts 4`
takes a model with so many experts in every layer, two of which a token visits, and adds ep and etp to the space.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))
sys.path.insert(0, str(Path(__file__).parent))

from closed_loop_ranks import rounds
from closed_loop_score import Score, score
from closed_loop_space import legal_configurations, told
from harness import run_ranks
from rich.console import Console
from rich.table import Table

from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.save import save_cluster
from meshwright.clusters.schema import Cluster
from meshwright.planner.configuration import Configuration, levers
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.plan import MeshDegrees, ModelSpec, Plan, Prediction, Proof, ScheduleChoice
from meshwright.profiler.measure import profile_machine
from meshwright.profiler.parts import Asked

SEQ_LEN, GLOBAL_BATCH, LAYERS = 256, 4, 4
BARS = {"tau": 0.8, "regret": 0.05, "median_error": 0.1}
BUDGET_S = {2: 150.0, 4: 400.0}


def small_model(experts: int = 0) -> ModelSpec:
    """The bundled byte-llama with four of its six layers, so that two and four stages are equal; with experts it is a
    Mixtral of these sizes."""
    model = load_model("byte-llama")
    config = {**model.config, "num_hidden_layers": LAYERS}
    if experts:
        config |= {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "sliding_window": None,
                   "num_local_experts": experts, "num_experts_per_tok": 2}  # fmt: skip
    return model.model_copy(update={"config": config})


def small_job() -> Job:
    return Job(seq_len=SEQ_LEN, global_batch=GLOBAL_BATCH, precision="fp32")


def main(options: argparse.Namespace) -> None:
    """Print the table and the scores; exit with 1 where a bar is missed."""
    model, job, began = small_model(options.experts), small_job(), time.perf_counter()
    cluster = load_cluster(options.cluster) if options.cluster else _profile(options, model, job)
    if options.save:
        save_cluster(cluster, options.save)
    setting = Setting(architecture(model), cluster, job)
    space = legal_configurations(setting, options.microbatches, options.recompute, options.zero)
    predicted = [price(setting, each) for each in space]
    if options.every > 1:
        space, predicted = space[:: options.every], predicted[:: options.every]
    plans = [plan_of(model, cluster, job, *each) for each in zip(space, predicted, strict=True)]
    profiled = time.perf_counter()
    print(f"{len(plans)} plans; profiled and priced in {profiled - began:.0f} s", file=sys.stderr)
    if options.beside:
        known = {row["plan"]: row["rounds_s"] for row in json.loads(options.beside.read_text())["plans"]}
        found = [known[told(each)] for each in space]
    else:
        found = run(plans, options.workers, options.rounds, options.steps, options.batch)
    print(f"ran in {time.perf_counter() - profiled:.0f} s", file=sys.stderr)
    result = results(space, predicted, found)
    if options.out:
        told_of = {"date": date.today().isoformat(), "workers": options.workers, "cluster": cluster.source}
        options.out.write_text(json.dumps(told_of | result, indent=1) + "\n")
    if options.picture:
        from closed_loop_picture import draw

        draw(result["plans"], options.picture)
    sys.exit(shown(result))


def _profile(options: argparse.Namespace, model: ModelSpec, job: Job) -> Cluster:
    budget_s = options.budget or BUDGET_S.get(options.workers, 60.0)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(model.config))
        asked = Asked(str(config), job.seq_len, job.global_batch)
        return profile_machine(options.workers, budget_s, _tell, asked)


def _tell(what: str, done: float) -> None:
    print(f"{done:4.0%} {what}", file=sys.stderr, flush=True)


def plan_of(model: ModelSpec, cluster: Cluster, job: Job, configuration: Configuration, predicted: Prediction) -> Plan:
    """A configuration as a plan that the runtime takes."""
    return Plan(
        model=model,
        cluster=cluster,
        job=job,
        mesh=MeshDegrees(**asdict(configuration.mesh)),
        schedule=ScheduleChoice(
            name=configuration.schedule, vpp=configuration.vpp, microbatches=configuration.microbatches
        ),
        stage_layers=configuration.stage_layers,
        microbatch=configuration.microbatch,
        **levers(configuration),
        predicted=predicted,
        proof=Proof(candidates=1, pruned=0, lower_bound_s=predicted.step_time_s, gap=0.0),
    )


def run(plans: Sequence[Plan], workers: int, count: int, steps: int, batch: int) -> list[list[float]]:
    """Seconds of a step, by plan and round: all rounds in the same processes, or where there are more plans than a
    `batch` has, round by round in batches that are drawn anew."""
    batches = -(-len(plans) // batch)
    if batches == 1:
        found: list[list[float]] = run_ranks(workers, rounds, plans, count, steps, timeout_s=3600.0)[0]
        return found
    found = [[] for _ in plans]
    for number in range(count):
        drawn = Random(number).sample(range(len(plans)), len(plans))
        for turn in range(batches):
            places = drawn[turn::batches]
            of_batch = run_ranks(workers, rounds, [plans[place] for place in places], 1, steps, timeout_s=3600.0)[0]
            for place, samples in zip(places, of_batch, strict=True):
                found[place] += samples
    return found


def results(
    space: Sequence[Configuration], predicted: Sequence[Prediction], found: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Scores, and every plan with its times."""
    measured = [median(each) for each in found]
    rows = [
        {
            "plan": told(configuration),
            "predicted_s": prediction.step_time_s,
            "measured_s": seconds,
            "rounds_s": list(samples),
            "breakdown_s": dict(prediction.breakdown_s),
            "origin": prediction.origin,
        }
        for configuration, prediction, seconds, samples in zip(space, predicted, measured, found, strict=True)
    ]
    scores = score([each.step_time_s for each in predicted], measured)
    return {"score": asdict(scores), "repeats": asdict(_repeats(found)), "plans": rows}


def _repeats(found: Sequence[Sequence[float]]) -> Score:
    """How well the even rounds tell the odd ones: no prediction can be expected to do better."""
    halves = [(median(each[::2]), median(each[1::2] or each)) for each in found]
    return score(*(list(half) for half in zip(*halves, strict=True)))


def shown(result: dict[str, Any]) -> int:
    """Print; 1 where a bar is missed."""
    table = Table(title="predicted and measured step times, the fastest first", title_justify="left")
    for name in ("plan", "measured ms", "predicted ms", "error"):
        table.add_column(name, justify="left" if name == "plan" else "right")
    for row in sorted(result["plans"], key=lambda row: row["measured_s"]):
        error = row["predicted_s"] / row["measured_s"] - 1
        table.add_row(row["plan"], f"{row['measured_s'] * 1e3:.0f}", f"{row['predicted_s'] * 1e3:.0f}", f"{error:+.0%}")
    console = Console(width=110)
    console.print(table)
    for line in _lines(result):
        console.print(line, highlight=False)
    scores = result["score"]
    missed = scores["tau"] < BARS["tau"] or any(scores[name] > BARS[name] for name in ("regret", "median_error"))
    return int(missed)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    names = {"score": "predicted beside measured", "repeats": "even rounds beside odd ones"}
    for name, title in names.items():
        each = result[name]
        yield (
            f"{title}: {each['plans']} plans, Kendall tau {each['tau']:.3f}, "
            f"first {each['regret']:.1%} above the best, "
            f"median error {each['median_error']:.1%}, bias {each['bias']:+.1%}, within 10 %: {each['within']:.0%}, "
            f"nine of ten second over first {each['spread'][0]:.2f} to {each['spread'][1]:.2f}"
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(","))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="timed of each plan in a round, after one that warms up")
    parser.add_argument("--microbatches", type=_numbers, default=(1, 2))
    parser.add_argument("--recompute", type=lambda text: tuple(text.split(",")), default=("none", "full"))
    parser.add_argument("--zero", type=_numbers, default=(0, 1, 2, 3))
    parser.add_argument("--budget", type=float, help="seconds for the profile")
    parser.add_argument("--experts", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="run only every so many-th plan")
    parser.add_argument("--batch", type=int, default=120, help="models that workers hold at once")
    parser.add_argument("--cluster", help="a profile that is there already")
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main(_arguments())
