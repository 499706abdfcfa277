"""The closed loop on one GPU: profile layers of 1B to 70B models, write the calibration, predict a step of the
smallest of them, train it, compare.

    python tests/benchmarks/closed_loop_gpu.py --out clusters/measured/h200.yaml [--steps 20]
    python tests/benchmarks/closed_loop_gpu.py --models byte-llama --seq-len 256 --global-batch 4   the same on a CPU

Bar: the predicted step within 5 % of the measured one. Models that do not fit are profiled all the same: layers one at
a time. The prediction uses the profile alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from closed_loop import plan_of
from closed_loop_ranks import Trainer, step
from rich.console import Console

from meshwright.clusters.save import save_cluster
from meshwright.clusters.schema import Cluster
from meshwright.planner.families import load_model
from meshwright.planner.job import Job
from meshwright.planner.pins import parse_pins
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.profiler.measure import profile_machine
from meshwright.profiler.parts import Asked

MODELS = ("llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b")
BAR = 0.05


def main(options: argparse.Namespace) -> int:
    """Print both times and their ratio; 1 where the bar is missed."""
    cluster = joined([_profile(options, model) for model in options.models])
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        save_cluster(cluster, options.out)
    model, device = load_model(options.models[0]), _device()
    job = Job(seq_len=options.seq_len, global_batch=options.global_batch, precision=_precision(device))
    pins = parse_pins(["recompute=none"])
    plan = find_plan(Request(model=model, cluster=cluster, job=job, pins=pins, runnable=True))
    measured_s = _trained_s(plan_of(model, cluster, job, plan.configuration, plan.predicted), device, options.steps)
    error = plan.predicted.step_time_s / measured_s - 1
    told = {"model": model.name, "predicted_s": plan.predicted.step_time_s, "measured_s": measured_s, "error": error}
    Console().print_json(json.dumps(told | {"bar": BAR, "cluster": cluster.source, **_memory(plan, device)}))
    return int(abs(error) > BAR)


def _profile(options: argparse.Namespace, model: str) -> Cluster:
    asked = Asked(model, options.seq_len, options.global_batch)
    return profile_machine(1, options.budget, lambda what, done: print(f"{done:4.0%} {model}: {what}"), asked)


def joined(clusters: list[Cluster]) -> Cluster:
    """The first, with the layers of all."""
    data = [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in clusters]
    times = [each["node_groups"][0]["device"]["calibration"].get("layers", {}) for each in data]
    every: dict[str, Any] = {
        name: [row for each in times for row in each.get(name, [])] for name in ("layers", "tails")
    }
    data[0]["node_groups"][0]["device"]["calibration"]["layers"] = times[0] | every
    return Cluster.model_validate(data[0])


def _device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _precision(device: torch.device) -> Any:
    return "bf16" if device.type == "cuda" else "fp32"


def _trained_s(plan: Any, device: torch.device, steps: int) -> float:
    """Median seconds of a step, after three that warm up."""
    trainer, samples = Trainer(plan, device), list[float]()
    for _ in range(3 + steps):
        begin = time.perf_counter()
        step(trainer.model, trainer.optimizer, trainer.tokens)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        samples.append(time.perf_counter() - begin)
    return median(samples[3:])


def _memory(plan: Any, device: torch.device) -> dict[str, float]:
    """Peak bytes of tensors, predicted and as the allocator saw them; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    predicted = plan.predicted.memory[0]
    return {
        "predicted_allocated_bytes": predicted.allocated, "allocated_bytes": torch.cuda.max_memory_allocated(device),
        "predicted_reserved_bytes": predicted.reserved, "reserved_bytes": torch.cuda.max_memory_reserved(device),
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--seq-len", type=int, default=4096)
    parser.add_argument("--global-batch", type=int, default=8)
    parser.add_argument("--budget", type=float, default=90.0, help="seconds for the profile of each model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(_arguments()))
