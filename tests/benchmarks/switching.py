"""When would it pay to gather experts rather than to send tokens (Tutel, arXiv:2206.03382), step by step?

    python -m meshwright.tests.benchmarks.switching [TRACE]

For each model on one node of H100, with one sequence of 4,096 tokens a rank and with 16: the load of one rank over the
mean, all other ranks alike, from which on another degree than 1 takes less; of ep ranks it is ep at most. With a trace
of DeepSeek-V2-Lite: what switching gains over its windows of 4,096 tokens, as if each were a step.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.switching import switching
from meshwright.planner.experts.trace_file import read_trace
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job

MODELS = ("mixtral-8x22b", "olmoe-1b-7b", "deepseek-v2-lite", "qwen3-235b-a22b", "deepseek-v3")
EP, TOKENS = 8, 4096


def asked(model: str) -> tuple[Setting, Configuration]:
    shape = architecture(load_model(model))
    setting = Setting(shape, load_cluster("dgx-h100:1"), Job(seq_len=TOKENS, global_batch=EP))
    mesh = Mesh(dp=EP, ep=EP)
    return setting, Configuration(
        mesh=mesh, stage_layers=(len(shape.layers),), microbatch=1, microbatches=1, dispatch="ranks", dispatch_chunks=2
    )


def threshold(setting: Setting, configuration: Configuration) -> float | None:
    """The least load of one rank with which tokens had better stay, to 1 %; None: not even with all rows."""
    low, high = 1.0, float(EP)
    if not _gathers(setting, configuration, high):
        return None
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if _gathers(setting, configuration, middle) else (middle, high)
    return high


def _gathers(setting: Setting, configuration: Configuration, load: float) -> bool:
    rest = (EP - load) / (EP - 1)
    return switching(setting, configuration, [[load, *[rest] * (EP - 1)]]).degree > 1


def main() -> None:
    print("| model | degree 1 up to a load of | with 16 sequences a rank |")
    print("|---|---:|---:|")
    for model in MODELS:
        setting, configuration = asked(model)
        found = [threshold(setting, each) for each in (configuration, replace(configuration, microbatch=16))]
        print(f"| {model} | " + " | ".join("any" if each is None else f"{each:.2f}" for each in found) + " |")
    if len(sys.argv) > 1:
        _traced(Path(sys.argv[1]))


def _traced(path: Path) -> None:
    trace, (setting, configuration) = read_trace(path), asked("deepseek-v2-lite")
    windows = np.array_split(np.arange(trace.tokens), trace.tokens // TOKENS)
    steps = []
    for window in windows:
        rows = np.bincount((trace.experts[window] // (trace.num_experts // EP)).ravel(), minlength=EP)
        steps.append((rows / rows.mean()).tolist())
    found = switching(setting, configuration, steps)
    worst = max(max(each) for each in steps)
    told = f"degree {found.degree}, switching gains {found.gain:.2%}"
    print(f"{path.name}: {len(steps)} steps, load {worst:.2f} at most; {told}")


if __name__ == "__main__":
    main()
